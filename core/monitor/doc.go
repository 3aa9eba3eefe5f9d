// Package monitor is the console of a run: a small HTTP server inside the host's process
// that shows power, energy, loss and the active experts while training goes on, or what
// a file of records says of runs that are over.
//
// A [Monitor] is fed with the lines of package record, through a [Stream] or from a file.
// It keeps the newest values and bounded histories, never the lines, and publishes a frame
// after news, a few times a second at most. Whoever looks reads what was published: a slow or hostile client
// can neither hold up the training nor make the process grow.
//
//	lines --> Stream.Write --> run (state, histories)
//	                             |  with the line, once an interval
//	                             v
//	             frame --> hub --> one mailbox a client --> server-sent events
//	                             |
//	             cached answers of /api/snapshot, /api/history, /api/traces, /metrics
package monitor

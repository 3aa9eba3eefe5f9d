// Package energy meters what a process consumes, and says how well it knows.
//
// A [Meter] polls the sensors of one [Source] about as often as they update. The energy of a window
// is the difference of what the sensors had counted at its two ends. Sensors are slow (a
// GPU updates its counter about every 100 ms), so the ends fall between two updates:
// the value is interpolated and its uncertainty is the worst that the updates allow.
// That bound is about timing. A sensor's own accuracy, some percent, is its maker's
// statement and is not in it.
//
// Energy is never inferred from time. Without a sensor there is no value.
package energy

// Package record is what a metered run leaves behind: a file of JSON lines that is
// only ever appended to, one line for each step or interval, and the types that
// everything which shows a run is fed with, live or replayed.
//
// A file starts with a line of kind "run". Lines of the other kinds follow in the
// order of time. A run that was killed lacks its line "end" and, at worst, the rest of
// its last line; a [Reader] takes that for the end.
//
// Every amount of energy is a [Quantity]: a value with its source, its quality and its
// uncertainty. What nobody measured is null, never 0 and never a guess.
package record

// Schema is the version of the lines. Fields may be added under the same number, so a
// reader ignores fields that it does not know; any other change raises the number, and a
// reader refuses a number that is higher than its own.
const Schema = 1

package core

import "fmt"

// Code classifies an [Error]. The numbers are the status codes of the C ABI.
type Code int32

// The codes of the C ABI, without OK.
const (
	InvalidArgument Code = 1
	InvalidHandle   Code = 2
	Unsupported     Code = 3
	OutOfMemory     Code = 4
	NoDevice        Code = 5
	DriverFailed    Code = 6
	ABIMismatch     Code = 7
	Forked          Code = 8
	Internal        Code = 9
)

// Error is what every operation returns when it fails. The message names the
// argument, its value and what was expected.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an [Error] of a code.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalidf makes an [InvalidArgument] error about the named argument.
func Invalidf(argument, format string, args ...any) error {
	return &Error{Code: InvalidArgument, Message: argument + ": " + fmt.Sprintf(format, args...)}
}

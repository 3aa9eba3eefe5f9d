// Command capi is the C library libgenesis_moe: built with -buildmode=c-shared (see
// build.mk), it exports the functions of include/genesis_moe.h.
//
// shim.c defines them and forwards to the //export functions here; internal/abi
// decodes their structs; router and experts do the work.
package main

/*
#cgo CFLAGS: -I${SRCDIR}/../include -fvisibility=hidden -Wall -Wextra
#include <stdint.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

func main() {} // Needed by the build mode, never called.

// enter is what every export goes through: it carries out one call, and turns its
// error, or its panic, into a status and the calling thread's message. A panic that
// left an export would abort the host's process.
func enter(message *C.char, call func() error) (status C.int32_t) {
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case *core.Error: // such as scratch memory that the system refuses
			status = fail(message, cause)
		default:
			status = fail(message, core.Errorf(core.Internal, "internal error: %v, at %s; please report it", cause, panicSite()))
		}
	}()
	if err := call(); err != nil {
		return fail(message, err)
	}
	return 0
}

// fail writes an error to the thread's message and returns its status.
func fail(message *C.char, err error) C.int32_t {
	code := core.Internal
	var typed *core.Error
	if errors.As(err, &typed) {
		code = typed.Code
	}
	cut(unsafe.Slice((*byte)(unsafe.Pointer(message)), C.GMOE_MESSAGE_CAPACITY), err.Error())
	return C.int32_t(code)
}

// cut copies as much of text as fits to buffer, whole UTF-8 characters only, and
// ends it with a NUL. The buffer holds at least one byte.
func cut(buffer []byte, text string) {
	if len(text) >= len(buffer) {
		text = strings.ToValidUTF8(text[:len(buffer)-1], "")
	}
	buffer[copy(buffer, text)] = 0
}

// panicSite is the place in our code where the panic being recovered was raised.
func panicSite() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	raised := false
	for {
		frame, more := frames.Next()
		if raised && !strings.HasPrefix(frame.Function, "runtime.") {
			return fmt.Sprintf("%s:%d", frame.File, frame.Line)
		}
		raised = raised || frame.Function == "runtime.gopanic"
		if !more {
			return "an unknown place"
		}
	}
}

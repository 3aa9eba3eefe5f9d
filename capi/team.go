package main

/*
#include <stdint.h>
#include "team.h"
*/
import "C"

import (
	"os"
	"runtime/cgo"

	"github.com/genesis-moe/genesis-moe/core"
)

// threadsVariable says whose threads do the work of CPU engines: "openmp", those of the host's OpenMP runtime where
// it has loaded one, or "own".
const threadsVariable = "GENESIS_MOE_THREADS"

// joinTeam has engines run on the host's threads from now on, if it has loaded a runtime that keeps some.
func joinTeam() error {
	switch value := os.Getenv(threadsVariable); value {
	case "", "openmp":
	case "own":
		return nil
	default:
		return core.Invalidf(threadsVariable, "%q, want openmp or own", value)
	}
	if C.gmoe_team_look() > 0 {
		core.SetTeam(runTeam)
	}
	return nil
}

// describeTeam is the runtime whose threads engines use, or what is wrong with the variable.
func describeTeam() string {
	if err := joinTeam(); err != nil {
		return err.Error()
	}
	if os.Getenv(threadsVariable) == "own" {
		return ""
	}
	return C.GoString(C.gmoe_team_path())
}

func runTeam(n int, work func(worker int)) bool {
	handle := cgo.NewHandle(work)
	defer handle.Delete()
	return C.gmoe_team_run(C.uintptr_t(handle), C.uint(n)) != 0
}

//export goTeamWork
func goTeamWork(work C.uintptr_t, worker C.uint) {
	cgo.Handle(work).Value().(func(int))(int(worker))
}

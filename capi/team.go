package main

/*
#include <stdint.h>
#include "team.h"
*/
import "C"

import (
	"os"
	"runtime"
	"runtime/cgo"

	"github.com/genesis-moe/genesis-moe/core"
)

// threadsVariable says whose threads do the work of CPU engines: "openmp", those of the host's OpenMP runtime where
// it has loaded one, or "own".
const threadsVariable = "GENESIS_MOE_THREADS"

// joinTeam has engines run on the host's threads from now on, if it has loaded a runtime that keeps some.
func joinTeam() error {
	wanted, err := wantsTeam()
	if err == nil && wanted && C.gmoe_team_look() > 0 {
		core.SetTeam(runTeam)
	}
	return err
}

func wantsTeam() (bool, error) {
	switch value := os.Getenv(threadsVariable); value {
	case "", "openmp":
		return true, nil
	case "own":
		return false, nil
	default:
		return false, core.Invalidf(threadsVariable, "%q, want openmp or own", value)
	}
}

// openMP lists the runtimes whose threads engines may use, or says what is wrong with the variable.
func openMP() []string {
	found := []string{}
	if wanted, err := wantsTeam(); err != nil {
		return []string{err.Error()}
	} else if !wanted {
		return found
	}
	for i := range C.gmoe_team_look() {
		found = append(found, C.GoString(C.gmoe_team_path(i)))
	}
	return found
}

func runTeam(n int, work func(worker int)) bool {
	if n > runtime.GOMAXPROCS(0) {
		return false // each of the team would wait for its turn to find that nothing is left
	}
	handle := cgo.NewHandle(work)
	defer handle.Delete()
	return C.gmoe_team_run(C.uintptr_t(handle), C.uint(n)) != 0
}

//export goTeamWork
func goTeamWork(work C.uintptr_t, worker C.uint) {
	cgo.Handle(work).Value().(func(int))(int(worker))
}

package core

import (
	"slices"
	"sync"
)

// Backend runs operations on an accelerator. A package that has one registers it
// from its init function, the way database drivers do. The CPU needs none: it is
// what router and experts implement themselves. Arguments arrive validated.
type Backend interface {
	Name() string
	DeviceType() DeviceType
	// DeviceCount is the number of usable devices: 0 without a driver, never an error.
	DeviceCount() int
	// Open prepares a device; the engine keeps what it returns. The backend knows
	// best why there is no such device: NoDevice or DriverFailed, with the reason.
	Open(id int32) (Session, error)
	// Describe says what was found and where, for the doctor's report.
	Describe() map[string]any
}

// Session is an opened device of a [Backend]. Each operation has a function that says how
// many bytes of workspace the same arguments need.
type Session interface {
	RouterForward(*RouterForwardArgs) error
	RouterForwardWorkspace(*RouterForwardArgs) (uint64, error)
	RouterBackward(*RouterBackwardArgs) error
	RouterBackwardWorkspace(*RouterBackwardArgs) (uint64, error)
	RouterUpdate(*RouterUpdateArgs) error
	RouterUpdateWorkspace(*RouterUpdateArgs) (uint64, error)
	RouterReport(*RouterReportArgs) (RouterReport, error)
	RouterReportWorkspace(*RouterReportArgs) (uint64, error)
	ClansDescend(*ClansDescendArgs) error
	ClansDescendWorkspace(*ClansDescendArgs) (uint64, error)
	ClansObserve(*ClansObserveArgs) error
	ClansObserveWorkspace(*ClansObserveArgs) (uint64, error)
	ExpertsForward(*ExpertsForwardArgs) error
	ExpertsForwardWorkspace(*ExpertsForwardArgs) (uint64, error)
	ExpertsBackward(*ExpertsBackwardArgs) error
	ExpertsBackwardWorkspace(*ExpertsBackwardArgs) (uint64, error)
	ExpertsQuantize(*ExpertsQuantizeArgs) error
	ExpertsQuantizeWorkspace(*ExpertsQuantizeArgs) (uint64, error)
	// ExpertWork is the work of a layer's experts in the calls that are finished, which waits for the default
	// stream; empty when nothing was counted.
	ExpertWork(layer int32) ([]Work, error)
	Close() error
}

var (
	backendsMutex sync.RWMutex
	backends      []Backend
)

// Register adds a backend. A second one for the same device type panics: it is a
// mistake in how the program was put together.
func Register(b Backend) {
	backendsMutex.Lock()
	defer backendsMutex.Unlock()
	for _, other := range backends {
		if other.DeviceType() == b.DeviceType() {
			panic("core: backends " + other.Name() + " and " + b.Name() + " both serve " + b.DeviceType().String())
		}
	}
	backends = append(backends, b)
}

// Backends lists what was registered.
func Backends() []Backend {
	backendsMutex.RLock()
	defer backendsMutex.RUnlock()
	return slices.Clone(backends)
}

// backendFor is the backend of a device type, or nil.
func backendFor(t DeviceType) Backend {
	for _, b := range Backends() {
		if b.DeviceType() == t {
			return b
		}
	}
	return nil
}

// DeviceCount is the number of usable devices of a type: 1 for the CPU, 0 where no
// backend or no driver is there.
func DeviceCount(t DeviceType) int {
	if t == CPU {
		return 1
	}
	if b := backendFor(t); b != nil {
		return b.DeviceCount()
	}
	return 0
}

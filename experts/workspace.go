package experts

import "github.com/genesis-moe/genesis-moe/core"

// ForwardWorkspace is the number of bytes of workspace that [Forward] needs with these
// arguments: 0 on the CPU, which has scratch memory of its own.
func ForwardWorkspace(e *core.Engine, a *core.ExpertsForwardArgs) (uint64, error) {
	if _, err := checkForward(e.Device, a); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().ExpertsForwardWorkspace(a)
}

// BackwardWorkspace is the number of bytes of workspace that [Backward] needs.
func BackwardWorkspace(e *core.Engine, a *core.ExpertsBackwardArgs) (uint64, error) {
	if _, err := checkBackward(e.Device, a); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().ExpertsBackwardWorkspace(a)
}

// QuantizeWorkspace is the number of bytes of workspace that [Quantize] needs.
func QuantizeWorkspace(e *core.Engine, a *core.ExpertsQuantizeArgs) (uint64, error) {
	if err := checkQuantize(e.Device, a); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().ExpertsQuantizeWorkspace(a)
}

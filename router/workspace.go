package router

import "github.com/genesis-moe/genesis-moe/core"

// ForwardWorkspace is the number of bytes of workspace that [Forward] needs with these
// arguments: 0 on the CPU, which has scratch memory of its own. So it is for the others.
func ForwardWorkspace(e *core.Engine, a *core.RouterForwardArgs) (uint64, error) {
	if _, err := checkForward(a, e.Device); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().RouterForwardWorkspace(a)
}

// BackwardWorkspace is the number of bytes of workspace that [Backward] needs.
func BackwardWorkspace(e *core.Engine, a *core.RouterBackwardArgs) (uint64, error) {
	if _, err := checkBackward(a, e.Device); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().RouterBackwardWorkspace(a)
}

// UpdateWorkspace is the number of bytes of workspace that [Update] needs.
func UpdateWorkspace(e *core.Engine, a *core.RouterUpdateArgs) (uint64, error) {
	if err := checkUpdate(a, e.Device); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().RouterUpdateWorkspace(a)
}

// ReportWorkspace is the number of bytes of workspace that [Report] needs.
func ReportWorkspace(e *core.Engine, a *core.RouterReportArgs) (uint64, error) {
	if _, err := checkReport(a, e.Device); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().RouterReportWorkspace(a)
}

// DescendWorkspace is the number of bytes of workspace that [Descend] needs.
func DescendWorkspace(e *core.Engine, a *core.ClansDescendArgs) (uint64, error) {
	if _, err := checkDescend(a, e.Device); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().ClansDescendWorkspace(a)
}

// ObserveWorkspace is the number of bytes of workspace that [Observe] needs.
func ObserveWorkspace(e *core.Engine, a *core.ClansObserveArgs) (uint64, error) {
	if _, err := checkObserve(a, e.Device); err != nil || e.Session() == nil {
		return 0, err
	}
	return e.Session().ClansObserveWorkspace(a)
}

package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// session runs operations on one device. An operation is a list of kernel launches,
// which pure functions of the arguments make; nothing waits and nothing is allocated on
// the device, except that a report and the work of experts wait for their numbers, and that the first
// call of a layer whose work is counted makes its sums and waits for its stream.
type session struct {
	device *driver.Device
	ledger ledger
}

// Close keeps the device: its context is the process's, and a captured graph may hold
// kernels of ours.
func (s *session) Close() error { return nil }

// operation is the two functions that every operation has: how much workspace its
// arguments need, and the launches that carry it out there.
type operation[A any] struct {
	workspace func(driver.Attributes, *A) (uint64, error)
	launches  func(driver.Attributes, *A) ([]driver.Launch, error)
}

// run checks the workspace of a call, and launches its kernels.
func (o operation[A]) run(s *session, a *A, stream core.Stream, given core.Workspace) error {
	attributes := s.device.Attributes()
	need, err := o.workspace(attributes, a)
	if err != nil {
		return err
	}
	if err := checkWorkspace(given, need); err != nil {
		return err
	}
	launches, err := o.launches(attributes, a)
	if err != nil {
		return err
	}
	return s.device.Run(stream, launches...)
}

// workspaceAlignment is what layouts of a workspace count on; allocators of device memory
// give at least that.
const workspaceAlignment = 256

func checkWorkspace(given core.Workspace, need uint64) error {
	switch {
	case need == 0:
		return nil
	case given.Base == 0:
		return core.Invalidf("workspace", "is NULL, want %d bytes of device memory (see the operation's _workspace_size)", need)
	case given.Size < need:
		return core.Invalidf("workspace_size", "%d, want at least %d (see the operation's _workspace_size)", given.Size, need)
	case given.Base%workspaceAlignment != 0:
		return core.Invalidf("workspace", "address %#x, want one aligned to %d bytes", given.Base, workspaceAlignment)
	}
	return nil
}

var (
	routerForward  = operation[core.RouterForwardArgs]{routerForwardWorkspace, routerForwardLaunches}
	routerBackward = operation[core.RouterBackwardArgs]{routerBackwardWorkspace, routerBackwardLaunches}
	routerUpdate   = operation[core.RouterUpdateArgs]{routerUpdateWorkspace, routerUpdateLaunches}
	routerReport   = operation[core.RouterReportArgs]{routerReportWorkspace, routerReportLaunches}
	clansDescend   = operation[core.ClansDescendArgs]{clansDescendWorkspace, clansDescendLaunches}
	clansObserve   = operation[core.ClansObserveArgs]{clansObserveWorkspace, clansObserveLaunches}

	expertsQuantize = operation[core.ExpertsQuantizeArgs]{expertsQuantizeWorkspace, expertsQuantizeLaunches}
)

func (s *session) RouterForward(a *core.RouterForwardArgs) error {
	return routerForward.run(s, a, a.Stream, a.Workspace)
}

func (s *session) RouterForwardWorkspace(a *core.RouterForwardArgs) (uint64, error) {
	return routerForwardWorkspace(s.device.Attributes(), a)
}

func (s *session) RouterBackward(a *core.RouterBackwardArgs) error {
	return routerBackward.run(s, a, a.Stream, a.Workspace)
}

func (s *session) RouterBackwardWorkspace(a *core.RouterBackwardArgs) (uint64, error) {
	return routerBackwardWorkspace(s.device.Attributes(), a)
}

func (s *session) RouterUpdate(a *core.RouterUpdateArgs) error {
	return routerUpdate.run(s, a, a.Stream, a.Workspace)
}

func (s *session) RouterUpdateWorkspace(a *core.RouterUpdateArgs) (uint64, error) {
	return routerUpdateWorkspace(s.device.Attributes(), a)
}

// RouterReport runs the report's kernels, reads their numbers back, which waits for the
// stream, and makes the report of them.
func (s *session) RouterReport(a *core.RouterReportArgs) (core.RouterReport, error) {
	if err := routerReport.run(s, a, a.Stream, a.Workspace); err != nil {
		return core.RouterReport{}, err
	}
	offset, size := routerReportBytes(a)
	host := make([]byte, size)
	if err := s.device.Read(unsafe.Pointer(unsafe.SliceData(host)), a.Workspace.Base+uintptr(offset), size, a.Stream); err != nil {
		return core.RouterReport{}, err
	}
	return routerReportResult(a, host)
}

func (s *session) RouterReportWorkspace(a *core.RouterReportArgs) (uint64, error) {
	return routerReportWorkspace(s.device.Attributes(), a)
}

func (s *session) ClansDescend(a *core.ClansDescendArgs) error {
	return clansDescend.run(s, a, a.Stream, a.Workspace)
}

func (s *session) ClansDescendWorkspace(a *core.ClansDescendArgs) (uint64, error) {
	return clansDescendWorkspace(s.device.Attributes(), a)
}

func (s *session) ClansObserve(a *core.ClansObserveArgs) error {
	return clansObserve.run(s, a, a.Stream, a.Workspace)
}

func (s *session) ClansObserveWorkspace(a *core.ClansObserveArgs) (uint64, error) {
	return clansObserveWorkspace(s.device.Attributes(), a)
}

// experts carries a call of the experts out, and what counts their work behind it.
func (s *session) experts(c *expertsCall, layer int32, rate core.WorkRate, index *core.Tensor, stream core.Stream, given core.Workspace) error {
	if err := checkWorkspace(given, c.arena.used); err != nil {
		return err
	}
	launches := c.launches
	if layer != 0 && c.experts > 0 {
		sums, err := s.sumsOf(layer, c.experts, stream)
		if err != nil {
			return err
		}
		if sums != 0 {
			launches = append(launches, ledgerLaunch(sums, rate, index, c.experts, c.plan))
		}
	}
	return s.device.Run(stream, launches...)
}

func (s *session) ExpertsForward(a *core.ExpertsForwardArgs) error {
	c, err := forwardCall(s.device.Attributes(), a)
	if err != nil {
		return err
	}
	return s.experts(c, a.Options.Layer, a.WorkRate(), a.TopKIndex, a.Stream, a.Workspace)
}

func (s *session) ExpertsForwardWorkspace(a *core.ExpertsForwardArgs) (uint64, error) {
	return expertsForwardWorkspace(s.device.Attributes(), a)
}

func (s *session) ExpertsBackward(a *core.ExpertsBackwardArgs) error {
	c, err := backwardCall(s.device.Attributes(), a)
	if err != nil {
		return err
	}
	return s.experts(c, a.Options.Layer, a.WorkRate(), a.TopKIndex, a.Stream, a.Workspace)
}

func (s *session) ExpertsBackwardWorkspace(a *core.ExpertsBackwardArgs) (uint64, error) {
	return expertsBackwardWorkspace(s.device.Attributes(), a)
}

func (s *session) ExpertsQuantize(a *core.ExpertsQuantizeArgs) error {
	return expertsQuantize.run(s, a, a.Stream, a.Workspace)
}

func (s *session) ExpertsQuantizeWorkspace(a *core.ExpertsQuantizeArgs) (uint64, error) {
	return expertsQuantizeWorkspace(s.device.Attributes(), a)
}

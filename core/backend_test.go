package core

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A backend of one device that counts what it is asked for. Its device type is none
// of DLPack's.
const countingDevice DeviceType = 1000

type counting struct{ open int }

func (*counting) Name() string             { return "counting" }
func (*counting) DeviceType() DeviceType   { return countingDevice }
func (*counting) DeviceCount() int         { return 1 }
func (*counting) Describe() map[string]any { return map[string]any{"devices": 1} }
func (c *counting) Open(id int32) (Session, error) {
	if id != 0 {
		return nil, Errorf(NoDevice, "device_id: %d, want 0", id)
	}
	c.open++
	return &countingSession{backend: c}, nil
}

type countingSession struct {
	backend *counting
	calls   int
}

func (s *countingSession) RouterForward(*RouterForwardArgs) error     { s.calls++; return nil }
func (s *countingSession) RouterBackward(*RouterBackwardArgs) error   { s.calls++; return nil }
func (s *countingSession) RouterUpdate(*RouterUpdateArgs) error       { s.calls++; return nil }
func (s *countingSession) ExpertsForward(*ExpertsForwardArgs) error   { s.calls++; return nil }
func (s *countingSession) ExpertsBackward(*ExpertsBackwardArgs) error { s.calls++; return nil }
func (s *countingSession) ExpertsQuantize(*ExpertsQuantizeArgs) error { s.calls++; return nil }
func (s *countingSession) ClansDescend(*ClansDescendArgs) error       { s.calls++; return nil }
func (s *countingSession) ClansObserve(*ClansObserveArgs) error       { s.calls++; return nil }
func (s *countingSession) RouterReport(*RouterReportArgs) (RouterReport, error) {
	s.calls++
	return RouterReport{Energy: 1}, nil
}

func (s *countingSession) RouterForwardWorkspace(*RouterForwardArgs) (uint64, error) { return 1, nil }

func (s *countingSession) RouterBackwardWorkspace(*RouterBackwardArgs) (uint64, error) { return 2, nil }

func (s *countingSession) RouterUpdateWorkspace(*RouterUpdateArgs) (uint64, error) { return 3, nil }

func (s *countingSession) RouterReportWorkspace(*RouterReportArgs) (uint64, error) { return 4, nil }
func (s *countingSession) ExpertWork(int32) ([]Work, error)                        { return nil, nil }

func (s *countingSession) ExpertsForwardWorkspace(*ExpertsForwardArgs) (uint64, error) { return 5, nil }

func (s *countingSession) ExpertsBackwardWorkspace(*ExpertsBackwardArgs) (uint64, error) {
	return 6, nil
}

func (s *countingSession) ExpertsQuantizeWorkspace(*ExpertsQuantizeArgs) (uint64, error) {
	return 9, nil
}

func (s *countingSession) ClansDescendWorkspace(*ClansDescendArgs) (uint64, error) { return 7, nil }

func (s *countingSession) ClansObserveWorkspace(*ClansObserveArgs) (uint64, error) { return 8, nil }

func (s *countingSession) Close() error { s.backend.open--; return nil }

func TestBackends(t *testing.T) {
	require.Equal(t, 1, DeviceCount(CPU))
	require.Zero(t, DeviceCount(countingDevice))

	backend := &counting{}
	Register(backend)
	require.Contains(t, Backends(), Backend(backend))
	require.Equal(t, 1, DeviceCount(countingDevice))
	require.Zero(t, DeviceCount(CUDA))
	require.PanicsWithValue(t, "core: backends counting and counting both serve DeviceType(1000)", func() { Register(&counting{}) })
	list := Backends()
	list[0] = nil
	require.NotContains(t, Backends(), nil, "the list is a copy")

	_, err := NewEngine(EngineOptions{Device: Device{countingDevice, 3}})
	require.EqualError(t, err, "device_id: 3, want 0")
	e, err := NewEngine(EngineOptions{Device: Device{countingDevice, 0}})
	require.NoError(t, err)
	require.Equal(t, 1, backend.open)
	report, err := e.Session().RouterReport(nil)
	require.NoError(t, err)
	require.Equal(t, 1.0, report.Energy)
	require.NoError(t, e.Close())
	require.Zero(t, backend.open)
}

func TestErrors(t *testing.T) {
	require.Equal(t, &Error{NoDevice, "device 3"}, Errorf(NoDevice, "device %d", 3))
	require.Equal(t, &Error{InvalidArgument, "price: is 1"}, Invalidf("price", "is %d", 1))
}

package cuda

import (
	"sync"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// ledger is where the work of experts is added up on a device: sums of a layer that a launch behind each call adds
// to, and that nobody reads before somebody asks. It is safe for concurrent use.
type ledger struct {
	mutex  sync.Mutex
	layers map[int32]workSums
}

// workSums is a core.Work for each of maxExperts, in device memory. They stay for the life of the process, as a captured
// graph may add to them.
type workSums struct {
	address uintptr
	experts int // that the layer has
}

// ledgerParams mirrors LedgerParams of kernels/ledger_params.h.
type ledgerParams struct {
	index                   uintptr
	tokenStride, slotStride int64
	tokens                  int64
	work                    uintptr
	rows, flops, bytes      uint64
	once                    uint64
	totals                  uintptr
	slots, experts, narrow  int32
	_                       int32
}

const ledgerThreads = 512

// ledgerLaunch adds the work of a call. plan may be nil: of a call with few pairs, which the launch counts itself.
func ledgerLaunch(sums uintptr, rate core.WorkRate, index *core.Tensor, experts int, p *plan) driver.Launch {
	params := &ledgerParams{
		index: addressOf(index), tokenStride: index.Stride(0), slotStride: index.Stride(1),
		tokens: index.Shape[0], slots: int32(index.Shape[1]), experts: int32(experts), narrow: flag(index.DType == core.Int32),
		work: sums, rows: rate.Rows, flops: rate.FLOPs, bytes: rate.Bytes, once: rate.Once,
	}
	if p != nil {
		params.totals = p.params.totals
	}
	return launch("gmoe_ledger_add", 1, ledgerThreads, unsafe.Pointer(params))
}

// sumsOf is where a layer's sums are, made when it is first seen. It is 0 for a call that is captured into a graph before its
// layer was ever run: memory cannot be made then, so such a layer is not counted.
func (s *session) sumsOf(layer int32, experts int, stream core.Stream) (uintptr, error) {
	s.ledger.mutex.Lock()
	defer s.ledger.mutex.Unlock()
	sums := s.ledger.layers[layer]
	if sums.address == 0 {
		address, err := s.device.Zeros(maxExperts*uint64(unsafe.Sizeof(core.Work{})), stream)
		if err != nil || address == 0 {
			return 0, err
		}
		if s.ledger.layers == nil {
			s.ledger.layers = map[int32]workSums{}
		}
		sums.address = address
	}
	sums.experts = max(sums.experts, experts)
	s.ledger.layers[layer] = sums
	return sums.address, nil
}

// ExpertWork reads a layer's sums, of the calls that the device has finished.
func (s *session) ExpertWork(layer int32) ([]core.Work, error) {
	s.ledger.mutex.Lock()
	sums := s.ledger.layers[layer]
	s.ledger.mutex.Unlock()
	work := make([]core.Work, sums.experts)
	err := s.device.Read(unsafe.Pointer(unsafe.SliceData(work)), sums.address, uint64(len(work))*uint64(unsafe.Sizeof(core.Work{})), 0)
	return work, err
}

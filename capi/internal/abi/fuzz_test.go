package abi

import (
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
	"github.com/genesis-moe/genesis-moe/router"
)

// The fuzz targets build the structs of one call from the fuzzer's bytes, in pages
// followed by unreadable ones, and make the call: decode, and then run the operation,
// if all the elements that the tensors claim to have are inside their pages. Whatever
// the bytes are, the outcome is success or a *core.Error: no fault and no panic.

// pages are guarded pages to build structs in.
type pages struct {
	memory []byte
	size   int
	used   int
}

func newPages(f *testing.F, n int) *pages {
	size := syscall.Getpagesize()
	memory, err := syscall.Mmap(-1, 0, 2*n*size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		f.Fatal(err)
	}
	for i := range n {
		if err := syscall.Mprotect(memory[(2*i+1)*size:(2*i+2)*size], syscall.PROT_NONE); err != nil {
			f.Fatal(err)
		}
	}
	return &pages{memory: memory, size: size}
}

// take is the last n bytes of a page, zeroed; pages are used again in turn.
func (p *pages) take(n int) []byte {
	end := (2*(p.used%(len(p.memory)/2/p.size)) + 1) * p.size
	p.used++
	b := p.memory[end-n : end]
	clear(b)
	return b
}

// bytes is the fuzzer's input, read front to back; zeros follow.
type bytes struct {
	left []byte
	size map[byte]int64 // of the letters of shapes, in this call
	e4m3 bool           // the experts' weights are, with scales
}

// shapes are the ones that genesis_moe.h gives, one letter a dimension: R is T*K, Z is
// 2*I. Most tensors are built so, or few calls would get past the checks.
var shapes = map[string]string{
	"hidden_states": "TH", "grad_hidden_states": "TH", "output": "TH", "grad_output": "TH",
	"projection": "DH", "grad_projection": "DH", "centroids": "ED", "grad_centroids": "ED",
	"bias": "E", "grad_bias": "E", "price": "E", "price_out": "E", "counts": "E",
	"temperature": "1", "grad_temperature": "1", "gap": "1",
	"top_k_index": "TK", "previous_index": "TK", "top_k_weights": "TK", "grad_top_k_weights": "TK",
	"logits": "TE", "grad_logits": "TE",
	"gate_up_proj": "EZH", "grad_gate_up_proj": "EZH", "gate_up_bias": "EZ", "grad_gate_up_bias": "EZ",
	"down_proj": "EHI", "grad_down_proj": "EHI", "down_bias": "EH", "grad_down_bias": "EH",
	"pre_activation": "RZ", "gate_up_scale": "Ezh", "down_scale": "Ehi", "weight": "EZH", "quantized": "EZH", "scale of quantized": "Ezh",
	"clan_index": "TK", "root": "C", "children": "N2", "direction": "NH", "threshold": "N", "slot_index": "TK", "slot_counts": "S",
	"binding": "TK", "mean": "SH", "axis": "SH", "scale": "S", "tokens": "S", "skipped": "S", "sum": "SH", "square": "S",
	"power": "SH", "binding_sum": "S", "histogram": "SB",
}

// integers are the tensors that hold int64, others int32 or float64; the rest holds float32.
var (
	integers = []string{"counts", "top_k_index", "previous_index", "clan_index", "slot_index", "slot_counts"}
	narrow   = []string{"root", "children"}
	doubles  = []string{"mean", "axis", "scale", "tokens", "skipped", "sum", "square", "power", "binding_sum", "histogram"}
)

func newBytes(data []byte) *bytes {
	b := &bytes{left: data}
	b.size = map[byte]int64{'1': 1, '2': 2, 'B': router.HistogramBins}
	for _, letter := range []byte("THDEKI") {
		b.size[letter] = int64(b.next() % 5)
	}
	b.size['R'], b.size['Z'] = b.size['T']*b.size['K'], 2*b.size['I']
	for block, whole := range map[byte]byte{'z': 'Z', 'h': 'H', 'i': 'I'} {
		b.size[block] = core.ScaleBlocks(b.size[whole])
	}
	b.e4m3 = b.next() < 96
	if b.next() < 128 {
		b.size['D'] = b.size['H']
	}
	return b
}

func (b *bytes) next() byte {
	if len(b.left) == 0 {
		return 0
	}
	v := b.left[0]
	b.left = b.left[1:]
	return v
}

// odd returns a wild number once in a while, and usual otherwise.
func (b *bytes) odd(usual int64) int64 {
	if b.next() < 250 {
		return usual
	}
	wild := []int64{-1, 0, 1, 3, 7, 64, 65, 4095, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64, 1 << 62}
	return wild[int(b.next())%len(wild)]
}

// tensor builds the DLTensor of a field and returns its address, or something else
// than one.
func (b *bytes) tensor(p *pages, field string) uintptr {
	switch kind := b.next(); {
	case kind < 16:
		return 0
	case kind < 19:
		return uintptr(kind)
	case kind < 250 && (b.e4m3 && field == "pre_activation" || !b.e4m3 && strings.HasSuffix(field, "_scale")):
		return 0
	}
	dtype := [2]byte{codeFloat, 32}
	switch {
	case slices.Contains(integers, field):
		dtype = [2]byte{codeInt, 64}
	case slices.Contains(narrow, field):
		dtype = [2]byte{codeInt, 32}
	case field == "quantized", b.e4m3 && (field == "gate_up_proj" || field == "down_proj"):
		dtype = [2]byte{codeE4M3, 8}
	case slices.Contains(doubles, field):
		dtype = [2]byte{codeFloat, 64}
	}
	if b.next() > 240 {
		dtype = [][2]byte{{codeFloat, 32}, {codeFloat, 64}, {codeBFloat, 16}, {codeInt, 32}, {codeInt, 64}, {codeE4M3, 8}}[b.next()%6]
	}
	d := (*DLTensor)(unsafe.Pointer(unsafe.SliceData(p.take(int(unsafe.Sizeof(DLTensor{}))))))
	*(*uint8)(unsafe.Pointer(&d.dtype.code)) = uint8(b.odd(int64(dtype[0])))
	*(*uint8)(unsafe.Pointer(&d.dtype.bits)) = uint8(b.odd(int64(dtype[1])))
	*(*uint16)(unsafe.Pointer(&d.dtype.lanes)) = uint16(b.odd(1))
	*(*int32)(unsafe.Pointer(&d.device.device_type)) = int32(b.odd(1))
	*(*int32)(unsafe.Pointer(&d.device.device_id)) = int32(b.odd(0))
	rank := int32(b.odd(int64(len(shapes[field]))))
	*(*int32)(unsafe.Pointer(&d.ndim)) = rank
	entries := min(max(int(rank), 0), maxRank)
	shape := p.take(8 * entries)
	for i := range entries {
		size := int64(2)
		if i < len(shapes[field]) {
			size = b.size[shapes[field][i]]
		}
		binary.NativeEndian.PutUint64(shape[8*i:], uint64(b.odd(size)))
	}
	*(*uintptr)(unsafe.Pointer(&d.shape)) = uintptr(unsafe.Pointer(unsafe.SliceData(shape)))
	if b.next() > 224 {
		strides := p.take(8 * entries)
		for i := range entries {
			binary.NativeEndian.PutUint64(strides[8*i:], uint64(b.odd(int64(b.next()%17))))
		}
		*(*uintptr)(unsafe.Pointer(&d.strides)) = uintptr(unsafe.Pointer(unsafe.SliceData(strides)))
	}
	data := p.take(p.size)
	for i := range 16 {
		data[8*i] = b.next() % 8
	}
	*(*uintptr)(unsafe.Pointer(&d.data)) = uintptr(b.odd(int64(uintptr(unsafe.Pointer(unsafe.SliceData(data))))))
	*(*uint64)(unsafe.Pointer(&d.byte_offset)) = uint64(b.odd(0))
	return uintptr(unsafe.Pointer(d))
}

// text builds a C string and returns its address, or something else than one.
func (b *bytes) text(p *pages) uintptr {
	switch kind := b.next(); {
	case kind < 64:
		return 0
	case kind < 67:
		return uintptr(kind - 63)
	}
	text := p.take(int(b.next()%32) + 1)
	for i := range text[:len(text)-1] {
		text[i] = max(1, b.next())
	}
	return uintptr(unsafe.Pointer(unsafe.SliceData(text)))
}

// fill builds a struct S: its size, and in every pointer field a DLTensor, except
// that options get the address given. Small numbers come from limits; other
// numbers have the values of init, or wild ones.
func fill[S any](b *bytes, p *pages, options unsafe.Pointer, init S) unsafe.Pointer {
	memory := p.take(int(unsafe.Sizeof(init)))
	s := (*S)(unsafe.Pointer(unsafe.SliceData(memory)))
	*s = init
	fields := reflect.TypeOf(init)
	for i := range fields.NumField() {
		at := unsafe.Add(unsafe.Pointer(s), fields.Field(i).Offset)
		switch fields.Field(i).Name {
		case "struct_size":
			*(*uint32)(at) = uint32(b.odd(int64(unsafe.Sizeof(init))))
		case "reserved":
			*(*uint32)(at) = uint32(b.odd(0))
		case "options":
			*(*uintptr)(at) = uintptr(options)
			if odd := b.next(); odd >= 250 {
				*(*uintptr)(at) = uintptr(odd % 4) // any other number may be an address
			}
		case "stream", "workspace", "workspace_size":
			*(*uintptr)(at) = uintptr(b.odd(0))
		case "devices", "sysfs_root", "replay_path", "trace_path", "path", "run", "calibration":
			*(*uintptr)(at) = b.text(p)
		case "meter":
			*(*uintptr)(at) = uintptr(b.odd(0))
		default:
			field := reflect.NewAt(fields.Field(i).Type, at).Elem()
			switch field.Kind() {
			case reflect.Pointer:
				name := fields.Field(i).Name
				if _, ok := any(init).(ExpertsQuantizeArgs); ok && name == "scale" {
					name = "scale of quantized"
				}
				*(*uintptr)(at) = b.tensor(p, name)
			case reflect.Int32, reflect.Int64, reflect.Uint32:
				if limit, ok := limits[fields.Field(i).Name]; ok {
					field.Set(reflect.ValueOf(b.odd(int64(b.next() % limit))).Convert(field.Type()))
				}
			case reflect.Float32, reflect.Float64:
				wild := []float64{math.NaN(), math.Inf(1), -1, 0, math.MaxFloat64}
				if odd := b.next(); odd >= 250 {
					field.Set(reflect.ValueOf(wild[odd%5]).Convert(field.Type()))
				}
			}
		}
	}
	if size := *(*uint32)(unsafe.Pointer(s)); size > uint32(len(memory)) && size <= maxStructSize {
		*(*uint32)(unsafe.Pointer(s)) = uint32(len(memory)) // A caller has the bytes that it says it has.
	}
	return unsafe.Pointer(s)
}

// limits bounds the small numbers of the structs, one past what is allowed.
var limits = map[string]byte{
	"abi_version": 3, "device_type": 4, "device_id": 3, "num_threads": 4,
	"mode": 4, "binding": 3, "solver": 3, "top_k": 6, "budgeted": 3, "normalize_top_k": 2, "num_groups": 4, "top_k_groups": 4,
	"source": 9, "layer": 3,
	"num_slots": 6, "activation": 11, "gated": 2, "interleaved": 2, "num_tokens": 20,
}

func (b *bytes) routerOptions(p *pages) unsafe.Pointer {
	options := fill(b, p, nil, RouterOptions{
		scaling_factor: 1, epsilon: 0.01, temperature_floor: 0.01, entropy_temperature: 0.1, load_penalty: 10,
	})
	b.size['K'] = b.odd(int64((*RouterOptions)(options).top_k))
	b.size['E'] = b.odd(max(b.size['E'], b.size['K']))
	return options
}

func (b *bytes) clansOptions(p *pages) unsafe.Pointer {
	options := fill(b, p, nil, ClansOptions{})
	b.size['S'] = b.odd(int64((*ClansOptions)(options).num_slots))
	b.size['C'], b.size['N'] = int64(b.next()%4), int64(b.next()%4)
	return options
}

func (b *bytes) expertsOptions(p *pages) unsafe.Pointer {
	return fill(b, p, nil, ExpertsOptions{alpha: 1.7, limit: 7})
}

// inside reports whether the elements of all tensors of args, a pointer to a struct
// of core, lie in the pages.
func (p *pages) inside(args any) bool {
	fields := reflect.ValueOf(args).Elem()
	for i := range fields.NumField() {
		t, ok := fields.Field(i).Interface().(*core.Tensor)
		if !ok || t == nil {
			continue
		}
		if t.Check("t") != nil {
			continue // The operation has to see it too.
		}
		low, high := int64(0), int64(0)
		for d, size := range t.Shape {
			if size == 0 {
				low, high = 0, -1
				break
			}
			reach := t.Stride(d) * (size - 1)
			low, high = low+min(reach, 0), high+max(reach, 0)
		}
		if low > high {
			continue
		}
		start := uintptr(unsafe.Pointer(unsafe.SliceData(p.memory)))
		at := int64(uintptr(t.Data)-start) + int64(t.ByteOffset)
		first, last := at+low*int64(t.DType.Size()), at+(high+1)*int64(t.DType.Size())
		page := int64(p.size)
		if first < 0 || last > int64(len(p.memory)) || first/page%2 != 0 || (last-1)/page != first/page {
			return false
		}
	}
	return true
}

// fuzz runs a target on seeds and on the fuzzer's bytes.
func fuzz(f *testing.F, call func(*testing.T, *bytes, *pages, *core.Engine) error) {
	p := newPages(f, 128)
	e, err := core.NewEngine(core.EngineOptions{NumThreads: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	for seed := range 64 {
		data := make([]byte, 512)
		for i := range data {
			data[i] = byte((i*i*(seed+1) + 31*i*seed + seed*7) % 251)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := call(t, newBytes(data), p, e)
		var typed *core.Error
		if err != nil && (!errors.As(err, &typed) || typed.Code == core.Internal || typed.Message == "") {
			t.Fatalf("not an error of ours: %v", err)
		}
	})
}

func FuzzEngineOptions(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, _ *core.Engine) error {
		_, err := DecodeEngineOptions(fill(b, p, nil, EngineOptions{}))
		return err
	})
}

func FuzzRouterForward(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		return RouterForward(fill(b, p, b.routerOptions(p), RouterForwardArgs{}), func(a *core.RouterForwardArgs) error {
			if !p.inside(a) {
				return nil
			}
			return router.Forward(e, a)
		})
	})
}

func FuzzRouterBackward(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		return RouterBackward(fill(b, p, b.routerOptions(p), RouterBackwardArgs{}), func(a *core.RouterBackwardArgs) error {
			if !p.inside(a) {
				return nil
			}
			return router.Backward(e, a)
		})
	})
}

func FuzzRouterUpdate(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		init := RouterUpdateArgs{rate: 0.02, step_limit: 0.02, budget: 1, gap_rate: 0.01}
		return RouterUpdate(fill(b, p, b.routerOptions(p), init), func(a *core.RouterUpdateArgs) error {
			if !p.inside(a) {
				return nil
			}
			return router.Update(e, a)
		})
	})
}

func FuzzRouterReport(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		out := fill(b, p, nil, Report{})
		return RouterReportCompute(fill(b, p, b.routerOptions(p), RouterReportArgs{}), out,
			func(a *core.RouterReportArgs) (core.RouterReport, error) {
				if !p.inside(a) {
					return core.RouterReport{}, nil
				}
				return router.Report(e, a)
			})
	})
}

func FuzzClansDescend(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		return ClansDescend(fill(b, p, b.clansOptions(p), ClansDescendArgs{}), func(a *core.ClansDescendArgs) error {
			if !p.inside(a) {
				return nil
			}
			return router.Descend(e, a)
		})
	})
}

func FuzzClansObserve(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		return ClansObserve(fill(b, p, b.clansOptions(p), ClansObserveArgs{}), func(a *core.ClansObserveArgs) error {
			if !p.inside(a) {
				return nil
			}
			return router.Observe(e, a)
		})
	})
}

func FuzzExpertsForward(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		return ExpertsForward(fill(b, p, b.expertsOptions(p), ExpertsForwardArgs{}), func(a *core.ExpertsForwardArgs) error {
			if !p.inside(a) {
				return nil
			}
			return experts.Forward(e, a)
		})
	})
}

func FuzzExpertsBackward(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		return ExpertsBackward(fill(b, p, b.expertsOptions(p), ExpertsBackwardArgs{}), func(a *core.ExpertsBackwardArgs) error {
			if !p.inside(a) {
				return nil
			}
			return experts.Backward(e, a)
		})
	})
}

func FuzzExpertsQuantize(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, e *core.Engine) error {
		return ExpertsQuantize(fill(b, p, nil, ExpertsQuantizeArgs{}), func(a *core.ExpertsQuantizeArgs) error {
			if !p.inside(a) {
				return nil
			}
			return experts.Quantize(e, a)
		})
	})
}

func FuzzMeterOptions(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, _ *core.Engine) error {
		_, err := DecodeMeterOptions(fill(b, p, nil, MeterOptions{poll_seconds: 0.02}))
		return err
	})
}

func FuzzRecorderOptions(f *testing.F) {
	fuzz(f, func(_ *testing.T, b *bytes, p *pages, _ *core.Engine) error {
		_, err := DecodeRecorderOptions(fill(b, p, nil, RecorderOptions{}))
		return err
	})
}

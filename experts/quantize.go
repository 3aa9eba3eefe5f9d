package experts

import (
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// Quantize makes weights in float8_e4m3fn, with a scale for each block of 128 x 128, of weights in another dtype:
//
//	scale = max |w| of the block / 448, or 1 where that is 0
//	quantized = e4m3(w / scale)
//
// in float32 arithmetic, to nearest, ties to even. Shapes: gmoe_experts_quantize in genesis_moe.h. A weight that is
// not finite as a float32 is an error that names its place; outputs are then unspecified.
func Quantize(e *core.Engine, a *core.ExpertsQuantizeArgs) error {
	if err := checkQuantize(e.Device, a); err != nil {
		return err
	}
	if session := e.Session(); session != nil {
		return session.ExpertsQuantize(a)
	}
	switch a.Weight.DType {
	case core.Float64:
		return runQuantize[float64, float64](e, a)
	case core.BFloat16:
		return runQuantize[core.BF16, float32](e, a)
	default:
		return runQuantize[float32, float32](e, a)
	}
}

func checkQuantize(device core.Device, a *core.ExpertsQuantizeArgs) error {
	c := &checker{device: device}
	var err error
	c.argument(&err, "weight", a.Weight, dataTypes, "[E, R, C]", -1, -1, -1)
	if err != nil {
		return err
	}
	experts, rows, columns := a.Weight.Shape[0], a.Weight.Shape[1], a.Weight.Shape[2]
	c.argument(&err, "quantized", a.Quantized, e4m3Types, "[E, R, C]", experts, rows, columns)
	c.argument(&err, "scale", a.Scale, scaleTypes, "[E, ceil(R/128), ceil(C/128)]", experts, core.ScaleBlocks(rows), core.ScaleBlocks(columns))
	if err != nil {
		return err
	}
	return core.CheckOutputs(
		[]core.Argument{{Name: "quantized", Tensor: a.Quantized}, {Name: "scale", Tensor: a.Scale}},
		[]core.Argument{{Name: "weight", Tensor: a.Weight}})
}

func runQuantize[S stored, F blas.Float](e *core.Engine, a *core.ExpertsQuantizeArgs) error {
	if a.Weight.Elements() == 0 {
		return nil
	}
	weight, quantized, scale := stackOf[S](a.Weight), stackOf[core.E4M3](a.Quantized), stackOf[float32](a.Scale)
	bands := weight.experts * scale.rows
	lines := make([][core.ScaleBlock]F, min(e.NumThreads, bands))
	var wrong atomic.Int64 // the place of the first weight that is not finite, and 1
	e.Parallel(bands, func(worker, band int) {
		expert, i := band/scale.rows, band%scale.rows*core.ScaleBlock
		last := min(i+core.ScaleBlock, weight.rows)
		for block := range scale.columns {
			j := block * core.ScaleBlock
			line := lines[worker][:min(core.ScaleBlock, weight.columns-j)]
			largest := float32(0)
			for row := i; row < last; row++ {
				readStack(line, &weight, expert, row, j)
				for column, w := range line {
					if !finite(float32(w)) {
						lowest(&wrong, int64((expert*weight.rows+row)*weight.columns+j+column)+1)
					}
					largest = max(largest, float32(math.Abs(float64(float32(w)))))
				}
			}
			s := scaleOf(largest)
			*scale.at(expert, i/core.ScaleBlock, block) = s
			for row := i; row < last; row++ {
				readStack(line, &weight, expert, row, j)
				for column, w := range line {
					*quantized.at(expert, row, j+column) = core.E4M3Of(float32(w) / s)
				}
			}
		}
	})
	if place := int(wrong.Load()) - 1; place >= 0 {
		row := place / weight.columns
		return core.Invalidf("weight", "not finite, or too large for float32, at [%d, %d, %d], want finite numbers",
			row/weight.rows, row%weight.rows, place%weight.columns)
	}
	return nil
}

// scaleOf is the scale of a block whose largest magnitude is given.
func scaleOf(largest float32) float32 {
	if s := largest / core.MaxE4M3; s != 0 {
		return s
	}
	return 1
}

// lowest makes p the smaller of itself and value; 0 stands for none.
func lowest(p *atomic.Int64, value int64) {
	for {
		now := p.Load()
		if now != 0 && now <= value || p.CompareAndSwap(now, value) {
			return
		}
	}
}

// readStack converts elements of a row of an expert's matrix from column j on.
func readStack[F blas.Float, S stored](dst []F, s *stack[S], expert, i, j int) {
	if s.column == 1 {
		load(dst, unsafe.Slice(s.at(expert, i, j), len(dst)))
	} else {
		gather(dst, s.at(expert, i, j), s.column)
	}
}

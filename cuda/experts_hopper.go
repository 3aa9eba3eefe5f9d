package cuda

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
	"github.com/genesis-moe/genesis-moe/cuda/internal/hopper"
)

// expertKernelsVariable chooses the kernels of the experts' products, before the process starts: portable,
// the default, with those for few tokens and small experts; tiles, without them, to compare; or hopper, those for Hopper in
// bfloat16 and float8_e4m3fn where the shape and the device suit, and else as the default.
const expertKernelsVariable = "GENESIS_MOE_EXPERT_KERNELS"

const (
	portableKernels = "portable"
	tilesKernels    = "tiles"
	hopperKernels   = "hopper"
)

// expertOrderVariable chooses the order in which the kernels for Hopper visit tiles: reuse, the default, or
// plain, to compare with. No result depends on it.
const expertOrderVariable = "GENESIS_MOE_EXPERT_ORDER"

const (
	reuseOrder = "reuse" // the rows of an expert while the L2 cache has its weights; every second product backwards, from what the one before has just written
	plainOrder = "plain" // groups of a fixed size, always forwards
)

// expertKernels and expertOrder are what the variables say.
var (
	expertKernels = sync.OnceValues(func() (string, error) {
		return parseChoice(expertKernelsVariable, os.Getenv(expertKernelsVariable), portableKernels, tilesKernels, hopperKernels)
	})
	expertOrder = sync.OnceValues(func() (string, error) {
		return parseChoice(expertOrderVariable, os.Getenv(expertOrderVariable), reuseOrder, plainOrder)
	})
)

// parseChoice is the text of a variable that has these values, of which the first is the default.
func parseChoice(variable, text string, values ...string) (string, error) {
	if text == "" {
		return values[0], nil
	}
	if slices.Contains(values, text) {
		return text, nil
	}
	last := len(values) - 1
	return "", core.Invalidf(variable, "%q, want %s or %s", text, strings.Join(values[:last], ", "), values[last])
}

// wantedKernels reports whether this call is to have the kernels for Hopper, or tiles only.
func (c *expertsCall) wantedKernels(d driver.Attributes) (hopper, tilesOnly bool, err error) {
	kernels, err := expertKernels()
	if err != nil {
		return false, false, err
	}
	order, err := expertOrder()
	c.reuse = order == reuseOrder
	hopper = kernels == hopperKernels && c.elementBytes <= 2 && d.ComputeMajor == 9 && d.ComputeMinor == 0
	return hopper, kernels == tilesKernels, err
}

// hopperColumns is the width of a product's tiles; a test can have others.
var hopperColumns = hopper.Columns

// visit is the order of the next product: so many row tiles in a group, and whether backwards.
func (c *expertsCall) visit(columns, depth int) (group, backwards int32) {
	if !c.reuse {
		return hopper.PlainGroup, 0
	}
	backwards = c.products % 2
	c.products++
	return int32(hopper.Group(int(c.elementBytes)*columns*depth, c.device.L2Bytes)), backwards
}

// suits reports whether rows can be copied and written 16 bytes at a time.
func (c *expertsCall) suits(m expertsMatrix) bool {
	return m.data == 0 || m.row >= 0 && c.vector(m.data, m.column, m.row)
}

// swiGLU reports whether the activation is the one that the kernels for Hopper have.
func (c *expertsCall) swiGLU() bool {
	o := c.options
	return o.Activation == core.SiLU && o.Gated && !o.Interleaved && c.intermediate%8 == 0
}

// hopperProduct turns a product that product() has filled in into one for Hopper: tiles of its own width,
// and the maps of the weights and of sorted rows. It reports false, and changes nothing, when the tensors do
// not suit.
func (c *expertsCall) hopperProduct(name string, p *expertsProduct) (columns int, maps []driver.TensorMap, ok bool) {
	w := p.weights
	along := w.column == 1
	line := w.row
	if !along {
		line = w.column
	}
	const most = 1 << 40
	if !c.hopper || p.rowsVector == 0 || p.weightsVector == 0 || p.columns%8 != 0 || p.depth%8 != 0 ||
		p.columns == 0 || p.depth == 0 || c.pairs == 0 || c.experts == 0 ||
		p.rows.row < 0 || line <= 0 || w.expert < 0 || c.elementBytes*line >= most || c.elementBytes*w.expert >= most {
		return 0, nil, false
	}
	if c.scaled {
		// Tiles and halves begin with a block of the weight, and stages are blocks of the depth.
		if !along || p.depth%core.ScaleBlock != 0 || p.columns%core.ScaleBlock != 0 || p.halves != 0 && p.columns/2%core.ScaleBlock != 0 {
			return 0, nil, false
		}
		columns = hopper.ScaledColumns
	} else {
		columns = hopperColumns(name, int(p.columns), int(p.depth))
	}
	depth, bytes := uint32(hopper.LineBytes/c.elementBytes), uint64(c.elementBytes)
	p.tiles, p.tileCount = c.plan.params.spans, c.plan.params.spanCount
	p.group, p.backwards = c.visit(int(p.columns), int(p.depth))
	p.columnTiles = int32(blocksOf(int(p.columns), columns))
	if p.halves != 0 {
		p.columnTiles = int32(blocksOf(int(p.columns/2), columns/2))
	}
	weights := driver.TensorMap{
		Offset: unsafe.Sizeof(hopperMap{}), Address: w.data, ElementBytes: int(bytes),
		Size:        [3]uint64{uint64(p.depth), uint64(p.columns), uint64(c.experts)},
		StrideBytes: [2]uint64{bytes * uint64(line), bytes * uint64(w.expert)},
		Box:         [3]uint32{depth, uint32(hopper.Box(columns)), 1},
	}
	if !along {
		weights.Size[0], weights.Size[1] = weights.Size[1], weights.Size[0]
		weights.Box[1] = depth
	}
	maps = []driver.TensorMap{weights}
	if p.rowPair == 0 && !c.scaled {
		maps = append(maps, driver.TensorMap{
			Offset: 0, Address: p.rows.data, ElementBytes: int(bytes),
			Size:        [3]uint64{uint64(p.depth), uint64(c.pairs), 1},
			StrideBytes: [2]uint64{bytes * uint64(p.rows.row), bytes * uint64(p.rows.row) * uint64(c.pairs)},
			Box:         [3]uint32{depth, hopper.Half, 1},
		})
	}
	return columns, maps, true
}

// hopperLaunch adds the launch of a kernel for Hopper, whose blocks stay: one for each multiprocessor.
func (c *expertsCall) hopperLaunch(kernel, layout string, columns, blocks int, params unsafe.Pointer, maps []driver.TensorMap) {
	name, bytes := fmt.Sprintf("%s%s_%d", kernel, layout, columns), hopper.SharedBytes(columns)
	if c.scaled {
		name, bytes = kernel+c.suffix, hopper.ScaledSharedBytes // of one layout and one width
	}
	l := launch(name, blocks, hopper.Threads, params)
	l.SharedBytes, l.Maps = uint32(bytes), maps
	c.launches = append(c.launches, l)
}

// clusterBlocks is how many blocks work on the spans of a product: all multiprocessors in clusters.
func (c *expertsCall) clusterBlocks(p *expertsProduct) int {
	return hopper.Cluster * min(c.plan.spans*int(p.columnTiles), max(1, c.device.MultiProcessors/hopper.Cluster))
}

// launchGateUp adds the first product of the forward pass. With scales, h is what `rounded` is to hold: the kernel for
// Hopper rounds it, and for the portable one it is rounded afterwards.
func (c *expertsCall) launchGateUp(p *expertsGateUpParams, layout string, rounded scaledRows) {
	if c.swiGLU() && c.suits(p.preActivation) && c.suits(p.h) && (p.bias.data == 0 || p.bias.column == 1) {
		of := &hopperGateUpParams{of: *p, hScale: rounded.scale}
		if columns, maps, ok := c.hopperProduct(hopper.GateUp, &of.of.product); ok {
			c.hopperLaunch("gmoe_experts_hopper_gate_up", layout, columns, c.clusterBlocks(&of.of.product), unsafe.Pointer(of), maps)
			return
		}
	}
	if c.scaled {
		p.h = c.scratch(c.pairs, c.intermediate, suffixBytes["_f32"])
	}
	c.launchProduct("gmoe_experts_gate_up"+layout, &p.product, unsafe.Pointer(p))
	if c.scaled {
		c.quantizeH(p.h, rounded, c.plan.params.offset)
	}
}

// launchProject adds a product whose rows are sorted already.
func (c *expertsCall) launchProject(p *expertsProjectParams, layout string) {
	if (c.scaled || c.suits(p.output)) && (p.bias.data == 0 || p.bias.column == 1) {
		of := &hopperProjectParams{of: *p}
		if columns, maps, ok := c.hopperProduct(hopper.Project, &of.of.product); ok {
			c.hopperLaunch("gmoe_experts_hopper_project", layout, columns, c.clusterBlocks(&of.of.product), unsafe.Pointer(of), maps)
			return
		}
	}
	c.launchProduct("gmoe_experts_project"+layout, &p.product, unsafe.Pointer(p))
}

// launchActivationGradient adds the first product of the backward pass. It says into how many parts
// <h, dh> was cut, for which there is room for one in every expertsTileSide columns.
func (c *expertsCall) launchActivationGradient(p *expertsActivationGradientParams, layout string) (parts int) {
	if c.swiGLU() && c.suits(p.preActivation) && c.suits(p.dz) && c.suits(p.wh) {
		of := &hopperActivationGradientParams{of: *p}
		if columns, maps, ok := c.hopperProduct(hopper.ActivationGradient, &of.of.product); ok {
			c.hopperLaunch("gmoe_experts_hopper_activation_gradient", layout, columns, c.clusterBlocks(&of.of.product), unsafe.Pointer(of), maps)
			return int(of.of.product.columnTiles)
		}
	}
	c.launchProduct("gmoe_experts_activation_gradient"+layout, &p.product, unsafe.Pointer(p))
	return int(p.product.columnTiles)
}

// launchWeightGradient adds a gradient of weights.
func (c *expertsCall) launchWeightGradient(p *expertsWeightGradientParams) {
	of := *p
	if of.gradient.column != 1 && of.gradient.row == 1 { // the transposed gradient is b^T a
		of.a, of.b, of.m, of.n = of.b, of.a, of.n, of.m
		of.aOfTokens, of.bOfTokens = of.bOfTokens, of.aOfTokens
		of.gradient = of.gradient.transposed()
	}
	g := of.gradient
	if c.hopper && c.pairs > 0 && c.experts > 0 && of.m%8 == 0 && of.n%8 == 0 && of.aVector != 0 && of.bVector != 0 && of.a.row >= 0 && of.b.row >= 0 &&
		c.vector(g.data, g.column, g.row, g.expert) {
		columns := hopperColumns(hopper.WeightGradient, int(of.n), c.pairs/c.experts) // the depth on average
		_, of.backwards = c.visit(0, 0)
		of.mTiles, of.nTiles = int32(blocksOf(int(of.m), expertsTileSide)), int32(blocksOf(int(of.n), columns))
		blocks := min(c.experts*int(of.mTiles)*int(of.nTiles), max(1, c.device.MultiProcessors))
		c.hopperLaunch("gmoe_experts_hopper_weight_gradient", "", columns, blocks, unsafe.Pointer(&of), nil)
		return
	}
	c.launch("gmoe_experts_weight_gradient", c.grid(c.experts*int(p.mTiles)*int(p.nTiles)), unsafe.Pointer(p))
}

// describeExpertKernels is what the doctor says of the choice.
func describeExpertKernels() string {
	kernels, err := expertKernels()
	if err != nil {
		return err.Error()
	}
	return kernels
}

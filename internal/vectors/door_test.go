package vectors

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
	"github.com/genesis-moe/genesis-moe/router"
)

const folder = "../../testdata/vectors"

// door passes one case through the Go packages.
type door struct {
	*testing.T
	Case
	engine     *core.Engine
	floating   core.DType
	tolerances Tolerances
}

func eachCase(t *testing.T, name string, dtypes []core.DType, do func(d door)) {
	cases, tolerances, err := Read(folder, name)
	require.NoError(t, err)
	require.NotEmpty(t, cases)
	engine, err := core.NewEngine(core.EngineOptions{NumThreads: 2})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	for _, c := range cases {
		for _, dtype := range dtypes {
			t.Run(c.Name+", "+dtype.String(), func(t *testing.T) { do(door{t, c, engine, dtype, tolerances}) })
		}
	}
}

// pack makes a tensor of a case, with the given values.
func (d door) pack(name string, t Tensor, values []float64) *core.Tensor {
	switch t.DTypeOf(name, d.floating) {
	case core.Int32:
		return pack[int32](t, values)
	case core.Int64:
		return pack[int64](t, values)
	case core.Float32:
		return pack[float32](t, values)
	case core.Float64:
		return pack[float64](t, values)
	case core.Float8E4M3:
		packed := make([]core.E4M3, len(values))
		for i, v := range values {
			packed[i] = core.E4M3Of(float32(v))
		}
		return core.FromSlice(packed, t.Shape...)
	}
	packed := make([]core.BF16, len(values))
	for i, v := range values {
		packed[i] = core.BF16(math.Float32bits(float32(v)) >> 16) // exact for what the files hold
	}
	return core.FromSlice(packed, t.Shape...)
}

func pack[E int32 | int64 | float32 | float64](t Tensor, values []float64) *core.Tensor {
	packed := make([]E, len(values))
	for i, v := range values {
		packed[i] = E(v)
	}
	return core.FromSlice(packed, t.Shape...)
}

func unpack(t *core.Tensor) []float64 {
	switch t.DType {
	case core.Int32:
		return widen(core.Slice[int32](t, 0, t.Elements()))
	case core.Int64:
		return widen(core.Slice[int64](t, 0, t.Elements()))
	case core.Float32:
		return widen(core.Slice[float32](t, 0, t.Elements()))
	case core.Float64:
		return widen(core.Slice[float64](t, 0, t.Elements()))
	}
	var values []float64
	if t.DType == core.Float8E4M3 {
		for _, v := range core.Slice[core.E4M3](t, 0, t.Elements()) {
			values = append(values, float64(v.Float32()))
		}
		return values
	}
	for _, v := range core.Slice[core.BF16](t, 0, t.Elements()) {
		values = append(values, float64(math.Float32frombits(uint32(v)<<16)))
	}
	return values
}

func widen[E int32 | int64 | float32 | float64](from []E) []float64 {
	values := make([]float64, len(from))
	for i, v := range from {
		values[i] = float64(v)
	}
	return values
}

// member is the field of a struct with a name of genesis_moe.h; invalid when it has none.
func member(of any, name string) reflect.Value {
	plain := strings.ReplaceAll(name, "_", "")
	return reflect.Indirect(reflect.ValueOf(of)).FieldByNameFunc(func(field string) bool { return strings.EqualFold(field, plain) })
}

// give sets tensors of an argument struct; those it has no field for are not asked of it.
func (d door) give(arguments any, tensors map[string]Tensor) {
	for name, t := range tensors {
		if field := member(arguments, name); field.IsValid() {
			field.Set(reflect.ValueOf(d.pack(name, t, t.Values)))
		}
	}
}

// want makes room for the expected tensors.
func (d door) want(arguments any, tensors map[string]Tensor) {
	for name, t := range tensors {
		n := int64(1)
		for _, size := range t.Shape {
			n *= size
		}
		member(arguments, name).Set(reflect.ValueOf(d.pack(name, t, make([]float64, n))))
	}
}

func (d door) requireAgreement(arguments any, tensors map[string]Tensor) {
	d.Helper()
	for name, t := range tensors {
		got := unpack(member(arguments, name).Interface().(*core.Tensor))
		largest := 1.0
		for _, v := range t.Values {
			largest = max(largest, math.Abs(v))
		}
		tolerance, special := d.Case.Tolerances[name]
		switch {
		case t.DType == "float64":
			tolerance = d.tolerances[t.DType]
		case t.DType != "":
			tolerance = 0
		case !special:
			tolerance = d.tolerances[d.floating.String()]
		}
		require.InDeltaSlice(d, t.Values, got, tolerance*largest, name)
	}
}

var enumerators = map[string]map[string]int64{
	"mode":    {"hamiltonian": 0, "mixtral": 1, "deepseek": 2},
	"binding": {"cosine": 0, "dot": 1},
	"solver":  {"price": 0, "batch": 1},
	"activation": {
		"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "relu_squared": 4, "quick_gelu": 5, "sigmoid": 6,
		"tanh": 7, "identity": 8, "clipped_swiglu": 9,
	},
}

func (d door) set(options any) {
	for name, value := range d.Options {
		field := member(options, name)
		switch value := value.(type) {
		case string:
			number, known := enumerators[name][value]
			require.True(d, known, "%s: %s", name, value)
			field.SetInt(number)
		case bool:
			field.SetBool(value)
		case float64:
			field.Set(reflect.ValueOf(value).Convert(field.Type()))
		}
	}
}

func (d door) routerOptions() core.RouterOptions {
	options := core.DefaultRouterOptions()
	d.set(&options)
	return options
}

func (d door) expertsOptions() core.ExpertsOptions {
	options := core.DefaultExpertsOptions()
	d.set(&options)
	return options
}

var all = []core.DType{core.Float64, core.Float32, core.BFloat16}

func TestRouter(t *testing.T) {
	eachCase(t, "router", all, func(d door) {
		forward := core.RouterForwardArgs{Options: d.routerOptions()}
		d.give(&forward, d.Inputs)
		d.want(&forward, d.Outputs)
		require.NoError(d, router.Forward(d.engine, &forward))
		d.requireAgreement(&forward, d.Outputs)

		backward := core.RouterBackwardArgs{Options: d.routerOptions(), Logits: forward.Logits, TopKIndex: forward.TopKIndex}
		d.give(&backward, d.Inputs)
		d.give(&backward, d.GradOutputs)
		d.want(&backward, d.GradInputs)
		require.NoError(d, router.Backward(d.engine, &backward))
		d.requireAgreement(&backward, d.GradInputs)
	})
}

func TestExperts(t *testing.T) {
	eachCase(t, "experts", all, func(d door) {
		forward := core.ExpertsForwardArgs{Options: d.expertsOptions()}
		d.give(&forward, d.Inputs)
		d.want(&forward, d.Outputs)
		require.NoError(d, experts.Forward(d.engine, &forward))
		d.requireAgreement(&forward, d.Outputs)

		backward := core.ExpertsBackwardArgs{Options: d.expertsOptions(), PreActivation: forward.PreActivation}
		d.give(&backward, d.Inputs)
		d.give(&backward, d.GradOutputs)
		d.want(&backward, d.GradInputs)
		require.NoError(d, experts.Backward(d.engine, &backward))
		d.requireAgreement(&backward, d.GradInputs)
	})
}

func (d door) quantize() (core.ExpertsQuantizeArgs, error) {
	arguments := core.ExpertsQuantizeArgs{}
	d.give(&arguments, d.Inputs)
	d.want(&arguments, d.Outputs)
	return arguments, experts.Quantize(d.engine, &arguments)
}

func TestE4M3(t *testing.T) {
	eachCase(t, "e4m3", all, func(d door) {
		if d.Operation == "quantize" {
			quantize, err := d.quantize()
			require.NoError(d, err)
			d.requireAgreement(&quantize, d.Outputs)
			return
		}
		forward := core.ExpertsForwardArgs{Options: d.expertsOptions()}
		d.give(&forward, d.Inputs)
		d.want(&forward, d.Outputs)
		require.NoError(d, experts.Forward(d.engine, &forward))
		d.requireAgreement(&forward, d.Outputs)
	})
}

func (d door) update() (core.RouterUpdateArgs, error) {
	update := core.RouterUpdateArgs{Options: d.routerOptions()}
	d.give(&update, d.Inputs)
	for name, value := range d.Numbers {
		field := member(&update, name)
		field.Set(reflect.ValueOf(value).Convert(field.Type()))
	}
	return update, router.Update(d.engine, &update)
}

func TestUpdate(t *testing.T) {
	eachCase(t, "update", []core.DType{core.Float64, core.Float32}, func(d door) {
		update, err := d.update()
		require.NoError(d, err)
		d.requireAgreement(&update, d.Outputs)
	})
}

func (d door) report() (core.RouterReport, error) {
	arguments := core.RouterReportArgs{Options: d.routerOptions()}
	d.give(&arguments, d.Inputs)
	return router.Report(d.engine, &arguments)
}

func TestReport(t *testing.T) {
	eachCase(t, "report", []core.DType{core.Float64, core.Float32}, func(d door) {
		report, err := d.report()
		require.NoError(d, err)
		for name, want := range d.Numbers {
			got := member(&report, name).Convert(reflect.TypeFor[float64]()).Float()
			require.InDelta(d, want, got, d.tolerances[d.floating.String()]*max(1, math.Abs(want)), name)
		}
	})
}

func (d door) descend() (core.ClansDescendArgs, error) {
	arguments := core.ClansDescendArgs{}
	d.set(&arguments.Options)
	d.give(&arguments, d.Inputs)
	d.want(&arguments, d.Outputs)
	return arguments, router.Descend(d.engine, &arguments)
}

func (d door) observe() (core.ClansObserveArgs, error) {
	arguments := core.ClansObserveArgs{}
	d.set(&arguments.Options)
	d.give(&arguments, d.Inputs)
	return arguments, router.Observe(d.engine, &arguments)
}

func TestClans(t *testing.T) {
	eachCase(t, "clans", all, func(d door) {
		if d.Operation == "descend" {
			descend, err := d.descend()
			require.NoError(d, err)
			d.requireAgreement(&descend, d.Outputs)
			return
		}
		observe, err := d.observe()
		require.NoError(d, err)
		d.requireAgreement(&observe, d.Outputs)
	})
}

// Hostile inputs are errors of the right code that name the argument.
func TestRefused(t *testing.T) {
	codes := map[string]core.Code{"INVALID_ARGUMENT": core.InvalidArgument, "UNSUPPORTED": core.Unsupported}
	eachCase(t, "refused", []core.DType{core.Float32}, func(d door) {
		var err error
		switch d.Operation {
		case "router":
			arguments := core.RouterForwardArgs{Options: d.routerOptions()}
			d.give(&arguments, d.Inputs)
			d.want(&arguments, d.Outputs)
			err = router.Forward(d.engine, &arguments)
		case "experts":
			arguments := core.ExpertsForwardArgs{Options: d.expertsOptions()}
			d.give(&arguments, d.Inputs)
			d.want(&arguments, d.Outputs)
			err = experts.Forward(d.engine, &arguments)
		case "quantize":
			_, err = d.quantize()
		case "update":
			_, err = d.update()
		case "report":
			_, err = d.report()
		case "descend":
			_, err = d.descend()
		case "observe":
			_, err = d.observe()
		}
		var refusal *core.Error
		require.True(d, errors.As(err, &refusal), "%v", err)
		require.Equal(d, codes[d.Status], refusal.Code)
		require.Contains(d, refusal.Message, d.Names)
	})
}

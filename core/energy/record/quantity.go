package record

// Quality says what kind of knowledge a value is.
type Quality string

// The qualities, best first.
const (
	Measured  Quality = "measured"  // a sensor's reading, and sums and ratios of such
	Modelled  Quality = "modelled"  // computed from readings, or from counts, by a model
	Synthetic Quality = "synthetic" // not of this run: a mock, or the replay of a trace
)

// Source names what a value comes from.
type Source string

// The sources of a meter, best first.
const (
	NVMLCounter     Source = "nvml_counter"      // the GPU's counter of energy
	NVMLIntegrated  Source = "nvml_integrated"   // the GPU's power, integrated
	RAPL            Source = "rapl"              // the processor packages' counters of energy
	EstimateTDPLoad Source = "estimate_tdp_load" // rated power times load: modelled
	Replay          Source = "replay"            // an earlier trace of readings
	Mock            Source = "mock"              // an invented load
	None            Source = "none"              // no meter: every value is null
)

// Quantity is a value that says how it is known. The unit is in the name of the field
// that holds it.
type Quantity struct {
	Value         *float64 `json:"value"`                    // null: not known
	Uncertainty   *float64 `json:"uncertainty"`              // the worst error, in the unit of the value; null: no bound is known
	Source        Source   `json:"source"`                   //
	Quality       Quality  `json:"quality,omitempty"`        // absent when the value is null
	LowResolution bool     `json:"low_resolution,omitempty"` // under ten updates of the meter: read trends, not single values
	Incomplete    bool     `json:"incomplete,omitempty"`     // part of it was not metered: at least this much
}

// Of is a known quantity.
func Of(value, uncertainty float64, source Source, quality Quality) Quantity {
	return Quantity{Value: &value, Uncertainty: &uncertainty, Source: source, Quality: quality}
}

// Unknown is the quantity that nobody measured.
func Unknown(source Source) Quantity { return Quantity{Source: source} }

// Known reports whether there is a value.
func (q Quantity) Known() bool { return q.Value != nil }

// Or is the value, or another one where there is none.
func (q Quantity) Or(other float64) float64 {
	if q.Value == nil {
		return other
	}
	return *q.Value
}

package monitor

import "slices"

// window holds the newest values of a quantity.
type window struct {
	values []float64
	next   int
}

// windowSteps is long enough for a 99th percentile that is more than the largest value.
const windowSteps = 256

func (w *window) add(value float64) {
	if len(w.values) < windowSteps {
		w.values = append(w.values, value)
		return
	}
	w.values[w.next] = value
	w.next = (w.next + 1) % windowSteps
}

// quantile is the smallest value that at least the share q of the values does not exceed;
// nil when there are none.
func (w *window) quantile(q float64) *float64 {
	if len(w.values) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(w.values))
	return &sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (w *window) sum() float64 {
	var sum float64
	for _, value := range w.values {
		sum += value
	}
	return sum
}

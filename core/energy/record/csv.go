package record

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// columns are those of every CSV; the losses follow, a column for each split.
var columns = []string{
	"t", "step", "phase", "duration_seconds", "tokens", "total_tokens",
	"joules", "joules_uncertainty", "total_joules", "joules_per_token", "net_joules_per_token", "watts", "limit_watts",
	"source", "quality", "router_joules", "experts_joules", "other_joules", "idle_joules", "residual_joules",
	"decisions", "routing_seconds", "mean_h", "worst_max_violation",
}

// WriteCSV writes a row for each step of a run; what is not known is an empty cell. The
// splits are the losses that get a column, in order; see [Splits].
func WriteCSV(w io.Writer, r *Reader, splits []string) error {
	out := csv.NewWriter(w)
	head := slices.Clone(columns)
	for _, split := range splits {
		head = append(head, "loss_"+split)
	}
	if err := out.Write(head); err != nil {
		return err
	}
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if line.Kind != KindStep {
			continue
		}
		if err := out.Write(row(line.Step, splits)); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// Splits are the splits that a run has losses of, sorted.
func Splits(r *Reader) ([]string, error) {
	var splits []string
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(splits)
			return splits, nil
		} else if err != nil {
			return nil, err
		}
		if line.Kind != KindStep {
			continue
		}
		for split := range line.Step.Loss {
			if !slices.Contains(splits, split) {
				splits = append(splits, split)
			}
		}
	}
}

func row(s *Step, splits []string) []string {
	e := &s.Energy
	cells := []string{
		number(s.Seconds), strconv.FormatInt(s.Step, 10), string(s.Phase), number(s.DurationSeconds),
		strconv.FormatInt(s.Tokens, 10), strconv.FormatInt(s.TotalTokens, 10),
		cell(e.Joules.Value), cell(e.Joules.Uncertainty), cell(e.TotalJoules.Value),
		cell(e.JoulesPerToken.Value), cell(e.NetJoulesPerToken.Value), cell(sumWatts(e.Devices)), cell(sumLimits(e.Devices)),
		string(e.Joules.Source), string(e.Joules.Quality),
	}
	var parts Components
	if e.Components != nil {
		parts = *e.Components
	}
	for _, q := range []Quantity{parts.RouterJoules, parts.ExpertsJoules, parts.OtherJoules, parts.IdleJoules, parts.ResidualJoules} {
		cells = append(cells, cell(q.Value))
	}
	h, violation := layerSummary(s.Layers)
	cells = append(cells, fmt.Sprint(s.Routing.Decisions), cell(s.Routing.DurationSeconds), cell(h), cell(violation))
	for _, split := range splits {
		if loss, ok := s.Loss[split]; ok {
			cells = append(cells, number(loss))
		} else {
			cells = append(cells, "")
		}
	}
	return cells
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func cell(v *float64) string {
	if v == nil {
		return ""
	}
	return number(*v)
}

// sumWatts is the power of all devices; nil when one of them is not known.
func sumWatts(devices []DeviceEnergy) *float64 {
	return sum(devices, func(d DeviceEnergy) *float64 { return d.Watts.Value })
}

func sumLimits(devices []DeviceEnergy) *float64 {
	return sum(devices, func(d DeviceEnergy) *float64 { return d.LimitWatts })
}

func sum(devices []DeviceEnergy, of func(DeviceEnergy) *float64) *float64 {
	total := 0.0
	for _, d := range devices {
		value := of(d)
		if value == nil {
			return nil
		}
		total += *value
	}
	if len(devices) == 0 {
		return nil
	}
	return &total
}

// layerSummary is the mean of H and the worst violation over the layers that reported.
func layerSummary(layers []LayerStep) (h, violation *float64) {
	total, n := 0.0, 0.0
	for i := range layers {
		l := &layers[i]
		if l.Hamiltonian != nil {
			total, n = total+*l.Hamiltonian, n+1
		}
		if l.MaxViolation != nil && (violation == nil || *l.MaxViolation > *violation) {
			violation = l.MaxViolation
		}
	}
	if n > 0 {
		mean := total / n
		h = &mean
	}
	return h, violation
}

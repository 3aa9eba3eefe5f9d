package metrics

import (
	"bytes"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

func ptr(v float64) *float64 { return &v }

func measured(v float64) record.Quantity {
	return record.Of(v, v/10, record.NVMLCounter, record.Measured)
}

func modelled(v float64) record.Quantity {
	return record.Of(v, v/10, record.NVMLCounter, record.Modelled)
}

// step is a step with everything; it is number n of the run.
func step(n int) record.Line {
	return record.Line{Kind: record.KindStep, Step: &record.Step{
		Phase: record.TrainPhase, DurationSeconds: 0.2, Tokens: 100, TotalTokens: int64(100 * n), Loss: map[string]float64{"train": 2, "held_out": 3},
		Energy: record.Energy{
			Joules: measured(50),
			Devices: []record.DeviceEnergy{{
				Device: "gpu0", Watts: measured(500), LimitWatts: ptr(700), Joules: measured(50), TotalJoules: measured(float64(50 * n)),
			}},
			Components: &record.Components{RouterJoules: modelled(1), ExpertsJoules: modelled(30), OtherJoules: modelled(9), IdleJoules: measured(10)},
			Saved:      []record.Saved{{Baseline: "mixtral", SavedKilojoules: modelled(-0.5)}},
		},
		Routing: record.Routing{Mode: "hamiltonian", Decisions: 200, DurationSeconds: ptr(0.003)},
		Layers: []record.LayerStep{{
			Layer: 3, Bind: ptr(0.5), Entropy: ptr(-0.1), Cost: ptr(0.01), MaxViolation: ptr(0.2),
			Tokens: []int64{60, 0, 40}, Joules: []float64{20, 0, 10}, JoulesQuality: record.Modelled,
		}},
	}}
}

func head(experts int) record.Line {
	return record.Line{Kind: record.KindRun, Run: &record.Run{
		Schema: record.Schema, Layers: []record.Layer{{Layer: 3, Experts: experts}},
		Devices: []record.Device{{Device: "gpu0", Domain: "gpu", LimitWatts: ptr(700)}},
		Meter:   record.Meter{Source: record.NVMLCounter, Quality: record.Measured, UpdatePeriodSeconds: ptr(0.1)},
	}}
}

func written(t *testing.T, lines ...record.Line) *Registry {
	r := New("0.1.0")
	for _, l := range lines {
		require.NoError(t, r.Write(l))
	}
	return r
}

func text(t *testing.T, r *Registry) string {
	var out bytes.Buffer
	require.NoError(t, r.WriteText(&out))
	return out.String()
}

// Every metric of the design is there, passes Prometheus's linter, and has the value of the run.
func TestMetrics(t *testing.T) {
	r := written(t, head(3), step(1), step(2),
		record.Line{Kind: record.KindBaseline, Baseline: &record.Baseline{Name: "mixtral", JoulesPerToken: measured(0.5)}},
		record.Line{Kind: record.KindEvent, Event: &record.Event{Event: record.MeterLost}},
		record.Line{Kind: record.KindEvent, Event: &record.Event{Event: record.CounterWrapped}})
	problems, err := testutil.GatherAndLint(prometheus.GathererFunc(r.Gather))
	require.NoError(t, err)
	require.Empty(t, problems)
	found := text(t, r)
	for _, want := range []string{
		`genesis_moe_energy_joules_total{device="gpu0",domain="gpu",quality="measured",source="nvml_counter"} 100`,
		`genesis_moe_component_energy_joules_total{component="experts",quality="modelled"} 60`,
		`genesis_moe_component_energy_joules_total{component="idle",quality="measured"} 20`,
		`genesis_moe_expert_energy_joules_total{expert="2",layer="3",quality="modelled"} 20`,
		`genesis_moe_expert_tokens_total{expert="0",layer="3"} 120`,
		`genesis_moe_power_watts{device="gpu0",kind="draw"} 500`,
		`genesis_moe_power_limit_watts{device="gpu0"} 700`,
		`genesis_moe_tokens_total{phase="train"} 200`,
		`genesis_moe_routing_decisions_total{mode="hamiltonian"} 400`,
		`genesis_moe_routing_energy{layer="3",term="entropy"} -0.1`,
		`genesis_moe_expert_load_max_violation{layer="3"} 0.2`,
		`genesis_moe_experts_active{layer="3"} 2`,
		`genesis_moe_baseline_joules_per_token{baseline="mixtral",quality="measured"} 0.5`,
		`genesis_moe_energy_saved_joules{baseline="mixtral",quality="modelled"} -500`,
		`genesis_moe_route_duration_seconds_count 2`,
		`genesis_moe_step_duration_seconds_sum 0.4`,
		`genesis_moe_loss{split="held_out"} 3`,
		`genesis_moe_meter_update_period_seconds 0.1`,
		`genesis_moe_energy_uncertainty_ratio{domain="gpu"} 0.1`,
		`genesis_moe_meter_errors_total{source="nvml_counter"} 1`,
		`genesis_moe_build_info{`,
	} {
		require.Contains(t, found, want)
	}
	response := httptest.NewRecorder()
	r.ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, response.Code)
	require.Contains(t, response.Body.String(), "genesis_moe_tokens_total")
}

// What is not known has no sample: no zero in its place.
func TestUnknownHasNoSample(t *testing.T) {
	l := step(1)
	l.Step.Energy = record.Energy{
		Joules:  record.Unknown(record.None),
		Devices: []record.DeviceEnergy{{Device: "gpu0"}},
		Saved:   []record.Saved{{Baseline: "mixtral"}},
	}
	l.Step.Layers[0].Joules = nil
	require.NotRegexp(t, `(energy_joules|power_watts|saved_joules|uncertainty).*\} [-0-9]`, text(t, written(t, head(3), l)))
}

func TestAnotherRunBeginsAnew(t *testing.T) {
	found := text(t, written(t, head(3), step(5), head(3), step(1)))
	require.Contains(t, found, `genesis_moe_tokens_total{phase="train"} 100`)
}

func TestManyExperts(t *testing.T) {
	found := text(t, written(t, head(maxExperts+1), step(1)))
	require.NotContains(t, found, "expert_tokens_total{")
	require.Contains(t, found, `genesis_moe_experts_active{layer="3"} 2`)
}

package monitor

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Every metric and every label that the dashboard for Grafana asks for is in /metrics of a
// run that has everything, and every metric of ours is on the dashboard.
func TestGrafanaAsksForWhatIsThere(t *testing.T) {
	m := start(t, Options{Version: "1.2.3"})
	bind, period := 0.5, 0.1
	head := header("one", 1, 2)
	head.Run.Meter.UpdatePeriodSeconds = &period
	line := step(1, []int64{3, 1})
	line.Step.Layers[0].Bind, line.Step.Layers[0].MaxViolation = &bind, &bind
	line.Step.Layers[0].Joules, line.Step.Layers[0].JoulesQuality = []float64{3, 1}, record.Modelled
	line.Step.Energy.Joules = amount(400)
	line.Step.Energy.Components = &record.Components{RouterJoules: amount(1), ExpertsJoules: amount(2), OtherJoules: amount(3), IdleJoules: amount(4)}
	line.Step.Energy.Saved = []record.Saved{{Baseline: "mixtral", SavedKilojoules: amount(-1)}}
	logged(t, m, head,
		record.Line{Kind: record.KindBaseline, Baseline: &record.Baseline{Kind: record.KindBaseline, Name: "mixtral", JoulesPerToken: amount(4)}},
		record.Line{Kind: record.KindEvent, Event: &record.Event{Kind: record.KindEvent, Event: record.MeterLost}},
		line)
	status, text := get(t, m, "/metrics")
	require.Equal(t, 200, status)
	require.Contains(t, text, `genesis_moe_energy_saved_joules{baseline="mixtral",quality="measured"} -1000`)

	labels := map[string]map[string]bool{} // by metric
	for _, sample := range regexp.MustCompile(`(?m)^(genesis_moe_\w+)(?:\{(.*)\})? `).FindAllStringSubmatch(text, -1) {
		labels[sample[1]] = map[string]bool{"job": true} // which Prometheus adds
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(sample[2], -1) {
			labels[sample[1]][label[1]] = true
		}
	}
	content, err := os.ReadFile("grafana/genesis-moe.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	require.NoError(t, json.Unmarshal(content, &dashboard))
	asked := map[string]bool{}
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			names := regexp.MustCompile(`genesis_moe_\w+`).FindAllString(target.Expr, -1)
			require.NotEmpty(t, names, target.Expr)
			require.Equal(t, strings.Count(target.Expr, "("), strings.Count(target.Expr, ")"), target.Expr)
			used := regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1)
			for _, by := range regexp.MustCompile(`by \(([\w, ]+)\)`).FindAllStringSubmatch(target.Expr, -1) {
				for label := range strings.SplitSeq(by[1], ",") {
					used = append(used, []string{"", strings.TrimSpace(label)})
				}
			}
			for _, name := range names {
				require.Contains(t, labels, name, "panel %q asks for it", panel.Title)
				asked[family(name)] = true
				for _, label := range used {
					if len(names) == 1 {
						require.Contains(t, labels[name], label[1], "panel %q, %s", panel.Title, name)
					}
				}
			}
		}
	}
	for name := range labels {
		require.True(t, asked[family(name)], "%s is on no panel", name)
	}
}

// family is a metric's name without what its kind adds.
func family(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

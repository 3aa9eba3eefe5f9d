package monitor

import (
	"slices"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// maxRoutes bounds a trace that is kept: tokens times layers, 512 tokens of 60 layers.
const maxRoutes = 1 << 15

// copyTrace keeps as much of a trace as is shown.
func copyTrace(t *record.Trace) record.Trace {
	kept := *t
	kept.ID, kept.Tokens, kept.Seconds = clip(t.ID), nil, finiteOr0(t.Seconds)
	routes := 0
	for _, token := range t.Tokens {
		routes += len(token.Layers) + 1
		if routes > maxRoutes {
			break
		}
		token.Text, token.Joules = clip(token.Text), quantity(token.Joules)
		layers := make([]record.TraceRoute, len(token.Layers))
		for i, route := range token.Layers {
			route.Experts = slices.Clone(route.Experts[:min(len(route.Experts), 16)])
			route.Weights = slices.Clone(route.Weights[:min(len(route.Weights), 16)])
			if slices.ContainsFunc(route.Weights, func(w float64) bool { return !finite(w) }) {
				route.Weights = nil
			}
			route.Energy = number(route.Energy)
			layers[i] = route
		}
		token.Layers = layers
		kept.Tokens = append(kept.Tokens, token)
	}
	return kept
}

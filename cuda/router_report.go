package cuda

import (
	"math"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// routerReportScalars are the sums of a tally before those by expert, as in
// kernels/router_report.cu.
const routerReportScalars = 9

// routerReportPass is where a report keeps its sums: first the result, which the host reads.
type routerReportPass struct {
	tokens, experts, each, blocks int64
	result, active, partial       uintptr
}

func newRouterReportPass(a *core.RouterReportArgs, w *arena) (routerReportPass, error) {
	p := routerReportPass{tokens: a.Logits.Shape[0], experts: a.Logits.Shape[1]}
	if err := checkRouter("logits", a.Logits, p.experts, int64(a.Options.TopK)); err != nil {
		return p, err
	}
	p.each = tokensPerBlock(p.tokens, 1024)
	p.blocks = blocksFor(p.tokens, p.each)
	p.result = w.take(uint64(8 * (routerReportScalars + 4*p.experts)))
	p.active = w.take(uint64(8 * p.blocks))
	p.partial = w.take(uint64(8 * p.blocks * (routerReportScalars + 3*p.experts)))
	return p, nil
}

func routerReportWorkspace(_ driver.Attributes, a *core.RouterReportArgs) (uint64, error) {
	var w arena
	_, err := newRouterReportPass(a, &w)
	return w.used, err
}

func routerReportLaunches(_ driver.Attributes, a *core.RouterReportArgs) ([]driver.Launch, error) {
	p, err := newRouterReportPass(a, &arena{base: a.Workspace.Base})
	if err != nil {
		return nil, err
	}
	params := unsafe.Pointer(&routerReportParams{
		logits: viewOf(a.Logits), topKIndex: viewOf(a.TopKIndex), price: vectorOf(a.Price), previous: viewOf(a.PreviousIndex),
		active: p.active, partial: p.partial, result: p.result,
		tokens: p.tokens, tokensPerBlock: p.each, blocks: p.blocks,
		options: routerOptionsOf(&a.Options), experts: int32(p.experts),
	})
	return []driver.Launch{
		routerLaunch("gmoe_router_report_active", p.blocks, params),
		routerLaunch("gmoe_router_report_survey"+mostExperts(p.experts), p.blocks, params),
		routerLaunch("gmoe_router_report_sum", blocksFor(routerReportScalars+4*p.experts, routerThreads), params),
	}, nil
}

// routerReportBytes says which part of the workspace holds the result.
func routerReportBytes(a *core.RouterReportArgs) (offset, size uint64) {
	return 0, uint64(8 * (routerReportScalars + 4*a.Logits.Shape[1]))
}

// routerTally is the result: sums over tokens, and by expert.
type routerTally struct {
	finite, margins, active, previous, changed float64
	bind, entropy, token, margin               float64
	loads, softmax, counts, price              []float64
}

// routerReportResult makes the report of the result. Its numbers are those of router/report.go.
func routerReportResult(a *core.RouterReportArgs, host []byte) (core.RouterReport, error) {
	v := unsafe.Slice((*float64)(unsafe.Pointer(unsafe.SliceData(host))), len(host)/8)
	experts := int(a.Logits.Shape[1])
	byExpert := func(i int) []float64 { return v[routerReportScalars+i*experts:][:experts] }
	t := routerTally{
		finite: v[0], margins: v[1], active: v[2], previous: v[3], changed: v[4],
		bind: v[5], entropy: v[6], token: v[7], margin: v[8],
		loads: byExpert(0), softmax: byExpert(1), counts: byExpert(2), price: byExpert(3),
	}
	tokens := float64(a.Logits.Shape[0])
	r := core.RouterReport{
		TopKMargin: mean(t.margin, t.margins), MeanActive: mean(t.active, tokens), Churn: -1,
		NonFiniteTokens: int64(tokens - t.finite),
	}
	if a.Price != nil {
		if err := checkPrice(&a.Options, t.price); err != nil {
			return core.RouterReport{}, err
		}
		t = t.open(&a.Options)
		if len(t.price) < experts && len(t.price) < a.Options.TopK {
			return core.RouterReport{}, core.Invalidf("price", "+Inf, which closes an expert, for %d of %d; want at least top_k = %d open ones",
				experts-len(t.price), experts, a.Options.TopK)
		}
		r.PriceMin, r.PriceMax = math.Inf(1), math.Inf(-1)
		for _, mu := range t.price {
			r.PriceMin, r.PriceMax = min(r.PriceMin, mu), max(r.PriceMax, mu)
		}
	}
	if a.PreviousIndex != nil {
		r.Churn = mean(t.changed, t.previous)
	}
	t.energy(&r, &a.Options, tokens)
	t.balance(&r)
	return r, nil
}

// open is the tally without the experts that a price closes.
func (t routerTally) open(o *core.RouterOptions) routerTally {
	all := t
	t.loads, t.softmax, t.counts, t.price = nil, nil, nil, nil
	for e, mu := range all.price {
		if o.Mode == core.Hamiltonian && math.IsInf(mu, 1) {
			continue
		}
		t.loads, t.softmax = append(t.loads, all.loads[e]), append(t.softmax, all.softmax[e])
		t.counts, t.price = append(t.counts, all.counts[e]), append(t.price, mu)
	}
	return t
}

// mean is 0 of nothing.
func mean(sum, n float64) float64 {
	if n == 0 {
		return 0
	}
	return sum / n
}

// checkPrice refuses prices with which no token could be routed well, as the CPU does.
func checkPrice(o *core.RouterOptions, price []float64) error {
	forced := math.Inf(-1)
	if o.Mode == core.DeepSeek {
		forced = math.Inf(1)
	}
	for e, mu := range price {
		if mu != mu || mu == forced {
			return core.Invalidf("price", "%v for expert %d, want a number (or %v, which bars the expert)", mu, e, -forced)
		}
	}
	return nil
}

// energy fills in the terms of H and the entropies, means over the tokens with finite logits.
func (t *routerTally) energy(r *core.RouterReport, o *core.RouterOptions, tokens float64) {
	if t.finite == 0 {
		return
	}
	active := float64(o.TopK)
	if o.Mode == core.Hamiltonian && o.Budgeted {
		if active = t.active / tokens; active == 0 {
			active = 1
		}
	}
	share, excess := active/float64(len(t.loads)), 0.0
	for e, load := range t.loads {
		over := load/t.finite/share - 1
		excess += over * over
		if p := t.softmax[e] / t.finite; p > 0 {
			r.MarginalEntropy -= p * math.Log(p)
		}
	}
	r.EnergyBind = t.bind / t.finite
	r.EnergyEntropy = -float64(o.EntropyTemperature) * t.entropy / t.finite
	r.EnergyCost = float64(o.LoadPenalty) / 2 * share * excess
	r.Energy = r.EnergyBind + r.EnergyEntropy + r.EnergyCost
	r.TokenEntropy = t.token / t.finite
}

// balance fills in how even the loads are.
func (t *routerTally) balance(r *core.RouterReport) {
	if t.active == 0 {
		return
	}
	average := t.active / float64(len(t.counts))
	largest, squares, dead := 0.0, 0.0, 0.0
	for _, count := range t.counts {
		largest = max(largest, count)
		squares += (count/average - 1) * (count/average - 1)
		if count == 0 {
			dead++
		}
	}
	r.MaxViolation = largest/average - 1
	r.LoadCV = math.Sqrt(squares / float64(len(t.counts)))
	r.DeadShare = dead / float64(len(t.counts))
}

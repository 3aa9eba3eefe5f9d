package experts

import "github.com/genesis-moe/genesis-moe/core"

// record adds the call's work to the engine's ledger, where the layer has a number.
func (l *layer[S, F]) record(rate core.WorkRate) {
	if l.ledger != 0 {
		l.engine.Ledger.Add(l.ledger, l.experts, func(e int) core.Work { return rate.Of(l.plan.rowsOf(e)) })
	}
}

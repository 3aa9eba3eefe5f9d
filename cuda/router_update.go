package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

func routerUpdateWorkspace(driver.Attributes, *core.RouterUpdateArgs) (uint64, error) { return 0, nil }

func routerUpdateLaunches(_ driver.Attributes, a *core.RouterUpdateArgs) ([]driver.Launch, error) {
	if a.Options.Mode == core.Mixtral || a.NumTokens == 0 {
		return nil, nil
	}
	experts := a.Counts.Shape[0]
	if err := checkRouter("price", nil, experts, int64(a.Options.TopK)); err != nil {
		return nil, err
	}
	l := routerLaunch("gmoe_router_update", 1, unsafe.Pointer(&routerUpdateParams{
		counts: vectorOf(a.Counts), price: vectorOf(a.Price), gap: vectorOf(a.Gap),
		rate: a.Rate, stepLimit: a.StepLimit, budget: a.Budget, gapRate: a.GapRate,
		tokens: a.NumTokens, options: routerOptionsOf(&a.Options), experts: int32(experts),
	}))
	l.Block.X = routerMaxExperts
	return []driver.Launch{l}, nil
}

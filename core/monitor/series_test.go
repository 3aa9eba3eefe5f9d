package monitor

import (
	"encoding/json"
	"math"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"
)

// However many rows are added: the length stays bounded, the whole time stays covered, means
// stay means and the last of a counter stays its last.
func TestSeriesIsBoundedAndKeepsTheWhole(t *testing.T) {
	require.NoError(t, quick.Check(func(n uint16, values []float64) bool {
		s := newSeries(16, []mergeRule{mergeLast, mergeMean})
		rows := int(n)%3000 + 1
		sum := 0.0
		for i := range rows {
			value := float64(i % 7)
			if i < len(values) && finite(values[i]) {
				value = math.Mod(values[i], 1e6)
			}
			sum += value
			s.add([]float64{float64(i), value})
		}
		var read [][]float64
		text, err := json.Marshal(s.clone())
		if err != nil || json.Unmarshal(text, &read) != nil || len(read) == 0 || len(read) > 17 {
			return false
		}
		for i := 1; i < len(read); i++ {
			if read[i][0] <= read[i-1][0] {
				return false
			}
		}
		// Every row stands for stride added ones, the unfinished one for fewer.
		total := 0.0
		for i := range s.len() {
			total += s.rows[2*i+1] * float64(s.stride)
		}
		total += s.open[1] * float64(s.merged)
		return read[len(read)-1][0] == float64(rows-1) && math.Abs(total-sum) <= 1e-6*(1+math.Abs(sum)+1e6)
	}, &quick.Config{MaxCount: 300}))
}

func TestSeriesUnknownValues(t *testing.T) {
	nan := math.NaN()
	s := newSeries(4, []mergeRule{mergeLast, mergeMean, mergeLast})
	for _, row := range [][]float64{{1, nan, 5}, {2, 4, nan}, {3, nan, nan}, {4, math.Inf(1), 7}} {
		s.add(row)
	}
	text, err := json.Marshal(s.clone())
	require.NoError(t, err)
	require.JSONEq(t, `[[2,4,null],[4,null,7]]`, string(text), "a mean of what is known; never a zero for what is not")
}

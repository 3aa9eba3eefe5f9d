package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTrain(t *testing.T) {
	var out strings.Builder
	first, last, err := train(&out)
	require.NoError(t, err)
	require.Less(t, last, first/4, out.String())
	require.Equal(t, 4, strings.Count(out.String(), "loss"))
}

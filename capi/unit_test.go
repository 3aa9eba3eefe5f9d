package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCutKeepsWholeCharacters(t *testing.T) {
	for _, c := range []struct {
		capacity   int
		text, want string
	}{
		{8, "short", "short"},
		{6, "short", "short"},
		{5, "short", "shor"},
		{1, "short", ""},
		{4, "añb", "añ"},
		{3, "añb", "a"},
		{1, "", ""},
	} {
		buffer := []byte(strings.Repeat("x", c.capacity))
		cut(buffer, c.text)
		got, _, ended := strings.Cut(string(buffer), "\x00")
		require.True(t, ended)
		require.Equal(t, c.want, got, "%q in %d bytes", c.text, c.capacity)
	}
}

func TestProcessor(t *testing.T) {
	intel := parseProcessor(strings.NewReader("processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu avx2 avx512_bf16 amx_tile\n\nmodel name\t: another\n"))
	require.Equal(t, processor{Model: "Some CPU @ 2GHz", InstructionSets: []string{"avx2", "avx512_bf16", "amx_tile"}}, intel)
	arm := parseProcessor(strings.NewReader("processor\t: 0\nFeatures\t: fp asimd bf16 sve2\n"))
	require.Equal(t, []string{"asimd", "bf16", "sve2"}, arm.InstructionSets)
	require.Positive(t, readProcessor().Cores)
}

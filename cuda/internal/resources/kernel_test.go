package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const logText = `ptxas info    : 0 bytes gmem
ptxas info    : (C7520) Potential Performance Loss: wgmma.mma_async instructions are serialized due to program dependence in the function 'gmoe_b'
ptxas info    : Compiling entry function 'gmoe_a' for 'sm_90a'
ptxas info    : Function properties for gmoe_a
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 8 bytes cumulative stack size, 33280 bytes smem
ptxas info    : Compile time = 2.4 ms
ptxas info    : Compiling entry function 'gmoe_b' for 'sm_90a'
ptxas info    : Function properties for gmoe_b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
`

const sassText = `
		Function : gmoe_a
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                        /* 0x00000a00ff017b82 */
                                                                                 /* 0x000fe20000000800 */
        /*0010*/               @P0 LDL.64 R2, [R1+0x8] ;                         /* 0x0000000000047919 */
        /*0020*/              @!UP1 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;        /* 0x0000000000047919 */
		Function : gmoe_ab
        /*0000*/                   STL [R1], R2 ;                                /* 0x00000a00ff017b82 */
		Function : gmoe_b
        /*0000*/                   EXIT ;                                        /* 0x000000000000794d */
`

func TestLog(t *testing.T) {
	require.Equal(t, []kernel{
		{name: "gmoe_a", registers: 168, sharedBytes: 33280, stackBytes: 8, spillBytes: 16},
		{name: "gmoe_b", registers: 8, losses: []string{"Potential Performance Loss: wgmma.mma_async instructions are serialized due to program dependence"}},
	}, parseLog(logText))
}

func TestInstructions(t *testing.T) {
	require.Equal(t, instructions{all: 3, matrix: 1, local: 1}, count(sassText, "gmoe_a"))
	require.Equal(t, instructions{all: 1}, count(sassText, "gmoe_b"))
	require.Zero(t, count(sassText, "gmoe_c"))
}

func TestProblems(t *testing.T) {
	code := instructions{all: 5}
	require.Empty(t, kernel{instructions: code}.problem())
	require.Contains(t, kernel{spillBytes: 4, instructions: code}.problem(), "spills 4 bytes")
	require.Contains(t, kernel{stackBytes: 8, instructions: code}.problem(), "8 bytes of stack")
	require.Contains(t, kernel{instructions: instructions{all: 5, local: 2}}.problem(), "2 instructions on local memory")
	require.Contains(t, kernel{losses: []string{"serialized"}, instructions: code}.problem(), "serialized")
	require.Contains(t, kernel{}.problem(), "no machine code")
}

// Package driver reaches the CUDA driver through gorgonia.org/cu. It is compiled in by
// the build tag gmoe_cuda, which build.mk sets when it is given the headers of CUDA
// 12.x; without the tag there are no devices and every question says why.
//
// Nothing touches the driver before the first call of a function here. That call
// initialises it (cuInit) and creates no context: operations use the primary context
// of a device, which is the one that torch uses.
package driver

// Device is what the driver says of one GPU.
type Device struct {
	Name              string `json:"name"`
	ComputeCapability string `json:"compute_capability"` // "9.0"
	MemoryBytes       int64  `json:"memory_bytes"`
}

// Info describes the driver.
type Info struct {
	Library   string   `json:"library,omitempty"`           // the file that was loaded
	Supported string   `json:"supports_cuda,omitempty"`     // the newest CUDA that it runs: "12.9"
	Missing   []string `json:"missing_functions,omitempty"` // that cu could call, if any
}

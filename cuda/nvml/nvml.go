// Package nvml reads NVIDIA's management library through go-nvml: names, power limits
// and (for meters) power and energy. Reading needs no privilege and no CUDA context.
package nvml

// Device is what NVML says of one GPU.
type Device struct {
	Name             string   `json:"name"`
	UUID             string   `json:"uuid"`
	PowerLimitWatts  *float64 `json:"power_limit_watts"`  // the limit in force; nil where the GPU has none
	PowerDrawWatts   *float64 `json:"power_draw_watts"`   // the last second's mean; nil where not measured
	HasEnergyCounter bool     `json:"has_energy_counter"` // total energy since the driver was loaded
}

// Info is the doctor's report about NVML.
type Info struct {
	Found         bool     `json:"found"`
	Library       string   `json:"library,omitempty"`
	DriverVersion string   `json:"driver_version,omitempty"`
	Version       string   `json:"nvml_version,omitempty"`
	Devices       []Device `json:"devices"`
	Error         string   `json:"error,omitempty"`
}

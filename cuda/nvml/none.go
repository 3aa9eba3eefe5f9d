//go:build !linux || !cgo || !(amd64 || arm64)

package nvml

// Describe says that this build has no NVML.
func Describe() Info {
	return Info{Devices: []Device{}, Error: "nvml: this build has no access to it: want linux on amd64 or arm64, and cgo"}
}

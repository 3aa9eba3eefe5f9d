package energy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// rapl reads the energy counters of the processor packages from the kernel's powercap files.
//
// Only packages are taken: their core and uncore domains are parts of them, and psys contains
// them, so a sum over all domains would count the same joules twice. Since 2020
// kernels let root alone read the counters; virtual machines rarely have them at all.
type rapl struct{ packages []Sensor }

func openRAPL(o Options) (Source, error) {
	root := o.SysfsRoot
	if root == "" {
		root = "/sys"
	}
	zones, err := filepath.Glob(filepath.Join(root, "class/powercap/intel-rapl:*"))
	if err != nil {
		return nil, core.Invalidf("sysfs_root", "%q: %v", root, err)
	}
	slices.Sort(zones)
	var source rapl
	for _, zone := range zones {
		if strings.Count(filepath.Base(zone), ":") != 1 {
			continue // a part of a package
		}
		name, err := text(zone, "name")
		if err != nil || !strings.HasPrefix(name, "package") {
			continue
		}
		sensor, err := openPackage(zone, name)
		if err != nil {
			return nil, err
		}
		source.packages = append(source.packages, sensor)
	}
	if len(source.packages) == 0 {
		return nil, core.Errorf(core.NoDevice, "rapl: no processor package in %s", filepath.Join(root, "class/powercap"))
	}
	return source, nil
}

func (rapl) Name() record.Source     { return record.RAPL }
func (rapl) Quality() record.Quality { return record.Measured }
func (r rapl) Sensors() []Sensor     { return r.packages }

func (r rapl) Close() error {
	var errs []error
	for _, p := range r.packages {
		errs = append(errs, p.(*raplPackage).counter.Close())
	}
	return errors.Join(errs...)
}

// raplPackage is one processor package.
type raplPackage struct {
	traits  Traits
	counter *os.File
	buffer  [32]byte
}

// raplUpdateSeconds is how often processors update the counter.
const raplUpdateSeconds = 1e-3

func openPackage(zone, name string) (*raplPackage, error) {
	highest, err := number(zone, "max_energy_range_uj")
	if err != nil {
		return nil, err
	}
	file, err := os.Open(filepath.Join(zone, "energy_uj"))
	if errors.Is(err, fs.ErrPermission) {
		return nil, core.Errorf(core.NoDevice, "rapl: %s may not be read by this user; root may, or whom root lets: chmod a+r", filepath.Join(zone, "energy_uj"))
	} else if err != nil {
		return nil, core.Errorf(core.NoDevice, "rapl: %v", err)
	}
	p := &raplPackage{counter: file, traits: Traits{
		Device: record.Device{
			Device: strings.ReplaceAll(name, "-", ""), Domain: "cpu", Name: "processor " + name,
			IdleWatts: record.Unknown(record.RAPL),
		},
		Counter: true, Range: highest, ResolutionJoules: 1e-4, UpdateSeconds: raplUpdateSeconds,
	}}
	// Constraint 0 is the long-term limit; it is what the package may draw for good.
	if limit, err := number(zone, "constraint_0_power_limit_uw"); err == nil && limit > 0 {
		watts := float64(limit) / 1e6
		p.traits.Device.LimitWatts = &watts
		p.traits.MaxWatts = 4 * watts
	}
	if _, err := p.Read(); err != nil {
		_ = file.Close()
		return nil, core.Errorf(core.NoDevice, "rapl: %v", err)
	}
	return p, nil
}

func (p *raplPackage) Traits() Traits { return p.traits }

func (p *raplPackage) Read() (Sample, error) {
	n, err := p.counter.ReadAt(p.buffer[:], 0)
	if n == 0 && err != nil {
		return Sample{}, err
	}
	value, err := strconv.ParseUint(strings.TrimSpace(string(p.buffer[:n])), 10, 64)
	if err != nil {
		return Sample{}, fmt.Errorf("%s: %w", p.counter.Name(), err)
	}
	return Sample{Microjoules: value}, nil
}

func text(folder, file string) (string, error) {
	content, err := os.ReadFile(filepath.Join(folder, file))
	return strings.TrimSpace(string(content)), err
}

func number(folder, file string) (uint64, error) {
	content, err := text(folder, file)
	if err != nil {
		return 0, core.Errorf(core.NoDevice, "rapl: %v", err)
	}
	value, err := strconv.ParseUint(content, 10, 64)
	if err != nil {
		return 0, core.Errorf(core.NoDevice, "rapl: %s: %v", filepath.Join(folder, file), err)
	}
	return value, nil
}

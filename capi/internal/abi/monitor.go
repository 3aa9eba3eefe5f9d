package abi

import (
	"strings"
	"time"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/monitor"
)

/*
#include "genesis_moe.h"
*/
import "C"

// DecodeMonitorOptions reads gmoe_monitor_options; NULL means the defaults.
func DecodeMonitorOptions(p unsafe.Pointer) (monitor.Options, error) {
	if p == nil {
		return monitor.Options{}, nil
	}
	o, err := check[MonitorOptions]("options", p)
	if err != nil {
		return monitor.Options{}, err
	}
	if o.abi_version != C.GMOE_ABI_VERSION {
		return monitor.Options{}, core.Errorf(core.ABIMismatch,
			"abi_version: %d, want %d: the caller was compiled against another genesis_moe.h", o.abi_version, C.GMOE_ABI_VERSION)
	}
	decoded := monitor.Options{Interval: time.Duration(o.interval_milliseconds) * time.Millisecond}
	if decoded.AllowRemote, err = boolean("allow_remote", o.allow_remote); err != nil {
		return decoded, err
	}
	var hosts string
	for _, field := range []struct {
		name  string
		value **C.char
		to    *string
	}{
		{"address", &o.address, &decoded.Address},
		{"token", &o.token, &decoded.Token},
		{"hosts", &o.hosts, &hosts},
	} {
		if *field.to, _, err = textAt(field.name, field.value); err != nil {
			return decoded, err
		}
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if host = strings.TrimSpace(host); host != "" {
			decoded.Hosts = append(decoded.Hosts, host)
		}
	}
	return decoded, nil
}

// DecodeMonitorFileOptions reads gmoe_monitor_file_options; NULL means the defaults.
func DecodeMonitorFileOptions(p unsafe.Pointer) (monitor.FileOptions, error) {
	if p == nil {
		return monitor.FileOptions{}, nil
	}
	o, err := check[MonitorFileOptions]("options", p)
	if err != nil {
		return monitor.FileOptions{}, err
	}
	follow, err := boolean("follow", o.follow)
	return monitor.FileOptions{Follow: follow, Speed: float64(o.speed)}, err
}

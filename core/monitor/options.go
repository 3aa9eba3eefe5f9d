package monitor

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/genesis-moe/genesis-moe/core"
)

// DefaultAddress is where a console listens when nothing else is asked for.
const DefaultAddress = "127.0.0.1:9460"

// MinTokenBytes is the shortest token that guards a console: 16 characters cannot be guessed
// at the rate at which a server answers.
const MinTokenBytes = 16

// Options say where a console listens and who may look.
type Options struct {
	// Address is host:port. "" means [DefaultAddress]; port 0 takes a free one.
	Address string
	// AllowRemote must be set for an address that other machines can reach.
	AllowRemote bool
	// Token is what a client must show. Required with AllowRemote, optional on loopback.
	Token string
	// Hosts are further names under which clients may ask for the console, such as
	// that of a proxy in front of it.
	Hosts []string
	// Version is the release that the console says it is of.
	Version string
	// Interval is the time between frames: 250 ms when 0, at least 50 ms.
	Interval time.Duration
}

// checked returns the options with defaults filled in, or an error that names the field.
func (o Options) checked() (Options, error) {
	if o.Address == "" {
		o.Address = DefaultAddress
	}
	host, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		return o, core.Invalidf("address", "%q, want host:port such as %q", o.Address, DefaultAddress)
	}
	if number, err := strconv.Atoi(port); err != nil || number < 0 || number > 65535 {
		return o, core.Invalidf("address", "%q: port %q, want 0 to 65535", o.Address, port)
	}
	if o.Token != "" && len(o.Token) < MinTokenBytes {
		return o, core.Invalidf("token", "%d characters, want at least %d", len(o.Token), MinTokenBytes)
	}
	if strings.ContainsFunc(o.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return o, core.Invalidf("token", "holds a space or a character that is not printable ASCII")
	}
	if !isLoopback(host) {
		if !o.AllowRemote {
			return o, core.Invalidf("address", "%q can be reached from other machines; want a loopback address such as %q, or allow_remote and a token",
				o.Address, DefaultAddress)
		}
		if o.Token == "" {
			return o, core.Invalidf("token", "is empty; want one of at least %d characters with address %q, which other machines can reach",
				MinTokenBytes, o.Address)
		}
	}
	if o.Interval == 0 {
		o.Interval = 250 * time.Millisecond
	}
	if o.Interval < 50*time.Millisecond || o.Interval > time.Minute {
		return o, core.Invalidf("interval", "%v, want 50 ms to 1 minute", o.Interval)
	}
	return o, nil
}

// isLoopback reports whether only this machine can reach the host. Of names only
// "localhost" is taken for it: what another name resolves to can change.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

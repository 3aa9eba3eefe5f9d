package monitor

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// guard lets through only requests that may see the console, and puts on every answer
// the headers that keep a page of another origin away from it.
//
// The dangers it stands against, for a server on loopback: a web page that the user has
// open elsewhere, which can make the browser send requests here (so: GET only, no effect
// of any request, no answer readable by another origin), and one whose name is made to
// resolve to 127.0.0.1 (so: an allow-list of Host). On other addresses: everybody (so: a
// token).
type guard struct {
	next     http.Handler
	hosts    map[string]bool // lower case, without port
	anyIP    bool            // an address was asked for that stands for all of the machine's
	token    [sha256.Size]byte
	hasToken bool
	cookie   string // its name; cookies are shared by all ports of a host, so it holds ours
}

func newGuard(o Options, listening *net.TCPAddr, next http.Handler) *guard {
	g := &guard{next: next, hosts: map[string]bool{"localhost": true}}
	host, _, _ := net.SplitHostPort(o.Address)
	for _, name := range append([]string{host, listening.IP.String()}, o.Hosts...) {
		if name != "" {
			g.hosts[strings.ToLower(name)] = true
		}
	}
	g.anyIP = listening.IP.IsUnspecified()
	g.hasToken = o.Token != ""
	g.token = sha256.Sum256([]byte(o.Token))
	g.cookie = fmt.Sprintf("genesis_moe_monitor_%d", listening.Port)
	return g
}

// securityHeaders are on every answer, refusals included.
var securityHeaders = map[string]string{
	"Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
		"object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Cache-Control":                "no-store",
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range securityHeaders {
		w.Header().Set(name, value)
	}
	switch {
	case !g.allowsHost(r.Host):
		refuse(w, http.StatusMisdirectedRequest, "this console does not answer to that Host")
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed, "only GET")
	case r.ContentLength != 0:
		w.Header().Set("Connection", "close") // and do not wait for it
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
		refuse(w, http.StatusRequestEntityTooLarge, "a GET has no body")
	case crossOrigin(r):
		refuse(w, http.StatusForbidden, "not for pages of another origin")
	case g.hasToken && r.URL.Path == "/" && g.matches(r.URL.Query().Get("token")):
		g.welcome(w, r)
	case g.hasToken && !g.authorised(r):
		w.Header().Set("WWW-Authenticate", `Bearer realm="genesis-moe"`)
		refuse(w, http.StatusUnauthorized, "open the console as /?token=..., or send Authorization: Bearer ...")
	default:
		g.next.ServeHTTP(w, r)
	}
}

func (g *guard) allowsHost(header string) bool {
	host := header
	if name, _, err := net.SplitHostPort(header); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if g.hosts[host] {
		return true
	}
	// An address cannot be made to resolve to something else, as a name can.
	ip := net.ParseIP(host)
	return ip != nil && (ip.IsLoopback() || g.anyIP)
}

// crossOrigin reports whether a browser says that another origin's page asks. Following a
// link to the console is fine.
func crossOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return r.Header.Get("Sec-Fetch-Mode") != "navigate"
}

// matches compares in constant time; hashing first hides the length too.
func (g *guard) matches(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1
}

func (g *guard) authorised(r *http.Request) bool {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return g.matches(token)
	}
	cookie, err := r.Cookie(g.cookie)
	return err == nil && subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(g.pass())) == 1
}

// pass is what the cookie holds: derived from the token, which it does not give away.
func (g *guard) pass() string {
	sum := sha256.Sum256(append([]byte("genesis-moe console\n"), g.token[:]...))
	return hex.EncodeToString(sum[:])
}

// welcome exchanges the token of the address for a cookie, so that it stays out of
// the address bar.
func (g *guard) welcome(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{
		Name: g.cookie, Value: g.pass(), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(why + "\n"))
}

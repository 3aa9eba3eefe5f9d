package monitor

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const secret = "0123456789abcdef-secret"

func TestAddresses(t *testing.T) {
	for _, test := range []struct {
		options Options
		refusal string // "" when it is fine
	}{
		{Options{}, ""},
		{Options{Address: "localhost:0"}, ""},
		{Options{Address: "[::1]:0"}, ""},
		{Options{Address: "127.9.9.9:0"}, ""},
		{Options{Address: "0.0.0.0:0"}, "allow_remote"},
		{Options{Address: ":0"}, "allow_remote"},
		{Options{Address: "example.org:80"}, "allow_remote"},
		{Options{Address: "localhost.example.org:80"}, "allow_remote"},
		{Options{Address: "0.0.0.0:0", Token: secret}, "allow_remote"},
		{Options{Address: "0.0.0.0:0", AllowRemote: true}, "token"},
		{Options{Address: "0.0.0.0:0", AllowRemote: true, Token: "short"}, "token: 5 characters"},
		{Options{Address: "0.0.0.0:0", AllowRemote: true, Token: secret}, ""},
		{Options{Token: "a token with blanks in it"}, "printable"},
		{Options{Address: "127.0.0.1"}, "host:port"},
		{Options{Address: "127.0.0.1:70000"}, "65535"},
		{Options{Address: "127.0.0.1:http"}, "65535"},
		{Options{Interval: 1}, "interval"},
	} {
		_, err := test.options.checked()
		if test.refusal == "" {
			require.NoError(t, err, "%+v", test.options)
		} else {
			require.ErrorContains(t, err, test.refusal, "%+v", test.options)
		}
	}
}

// ask sends a request through a guard in front of a page that says "inside".
func ask(o Options, change func(*http.Request)) *httptest.ResponseRecorder {
	o, _ = o.checked()
	listening := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9460}
	if o.AllowRemote {
		listening.IP = net.IPv4zero
	}
	g := newGuard(o, listening, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("inside")) }))
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:9460/api/snapshot", nil)
	change(r)
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

func TestGuard(t *testing.T) {
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	guarded := Options{Token: secret}
	remote := Options{Address: "0.0.0.0:9460", AllowRemote: true, Token: secret, Hosts: []string{"Console.Example.org"}}
	with := func(token string, more func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token); more(r) }
	}
	for name, test := range map[string]struct {
		options Options
		change  func(*http.Request)
		status  int
	}{
		"loopback":                    {Options{}, func(*http.Request) {}, 200},
		"localhost, another port":     {Options{}, host("localhost:8888"), 200},
		"IPv6 loopback":               {Options{}, host("[::1]:9460"), 200},
		"a name that was rebound":     {Options{}, host("evil.example:9460"), 421},
		"a name that looks like ours": {Options{}, host("127.0.0.1.evil.example"), 421},
		"no name":                     {Options{}, host(""), 421},
		"an address that is not ours": {Options{}, host("10.1.2.3:9460"), 421},
		"POST":                        {Options{}, func(r *http.Request) { r.Method = http.MethodPost }, 405},
		"HEAD":                        {Options{}, func(r *http.Request) { r.Method = http.MethodHead }, 405},
		"OPTIONS":                     {Options{}, func(r *http.Request) { r.Method = http.MethodOptions }, 405},
		"a body":                      {Options{}, func(r *http.Request) { r.ContentLength = 5 }, 413},
		"a chunked body":              {Options{}, func(r *http.Request) { r.ContentLength = -1 }, 413},
		"another origin's fetch":      {Options{}, header("Sec-Fetch-Site", "cross-site"), 403},
		"another port's page":         {Options{}, header("Sec-Fetch-Site", "same-site"), 403},
		"our own page":                {Options{}, header("Sec-Fetch-Site", "same-origin"), 200},
		"no token":                    {guarded, func(*http.Request) {}, 401},
		"a wrong token":               {guarded, with(secret+"x", func(*http.Request) {}), 401},
		"the beginning of a token":    {guarded, with(secret[:20], func(*http.Request) {}), 401},
		"an empty token":              {guarded, with("", func(*http.Request) {}), 401},
		"the token":                   {guarded, with(secret, func(*http.Request) {}), 200},
		"a made up cookie":            {guarded, header("Cookie", "genesis_moe_monitor_9460="+secret), 401},
		"a token in another address":  {guarded, func(r *http.Request) { r.URL.RawQuery = "token=" + secret }, 401},
		"remote, an address":          {remote, with(secret, host("10.1.2.3:9460")), 200},
		"remote, an allowed name":     {remote, with(secret, host("console.example.org")), 200},
		"remote, another name":        {remote, with(secret, host("evil.example")), 421},
		"remote, no token":            {remote, host("10.1.2.3:9460"), 401},
		"remote, no token, POST":      {remote, func(r *http.Request) { r.Method = http.MethodPost }, 405},
		"a link from elsewhere": {Options{}, func(r *http.Request) {
			header("Sec-Fetch-Site", "cross-site")(r)
			header("Sec-Fetch-Mode", "navigate")(r)
		}, 200},
		"a token in front of the page": {guarded, func(r *http.Request) { r.URL.Path = "/"; r.URL.RawQuery = "token=" + secret }, 303},
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(test.options, test.change)
			require.Equal(t, test.status, w.Code, w.Body)
			require.Equal(t, test.status == 200, w.Body.String() == "inside")
			require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'self'")
			require.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
			require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
			require.Equal(t, "same-origin", w.Header().Get("Cross-Origin-Resource-Policy"))
			require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
			require.NotContains(t, w.Body.String(), secret)
		})
	}
}

// The token of the address is exchanged for a cookie that lets the same browser in and does
// not hold the token.
func TestCookie(t *testing.T) {
	o := Options{Token: secret}
	w := ask(o, func(r *http.Request) { r.URL.Path = "/"; r.URL.RawQuery = "token=" + secret })
	require.Equal(t, "/", w.Header().Get("Location"))
	cookie := w.Result().Cookies()[0]
	require.True(t, cookie.HttpOnly)
	require.NotEqual(t, http.SameSiteNoneMode, cookie.SameSite)
	require.NotContains(t, cookie.Value, secret)
	require.Equal(t, 200, ask(o, func(r *http.Request) { r.AddCookie(cookie) }).Code)
	require.Equal(t, 401, ask(Options{Token: strings.ToUpper(secret)}, func(r *http.Request) { r.AddCookie(cookie) }).Code)
}

// What Go's server would answer by itself goes through the guard too.
func TestNothingPassesTheGuard(t *testing.T) {
	m := start(t, Options{})
	for request, status := range map[string]string{
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n": "405",
		"OPTIONS * HTTP/1.1\r\nHost: elsewhere\r\n\r\n": "421",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n":     "421",
		"GET / HTTP/1.0\r\n\r\n":                        "421",
	} {
		connection, err := net.Dial("tcp", m.listener.Addr().String())
		require.NoError(t, err)
		_, err = connection.Write([]byte(request))
		require.NoError(t, err)
		answer, err := bufio.NewReader(connection).ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, answer, " "+status+" ", request)
		require.NoError(t, connection.Close())
	}
}

package monitor

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"path"
)

//go:embed page
var page embed.FS

// pageFile is a file of the console's page.
type pageFile struct {
	content     []byte
	contentType string
	tag         string
}

var contentTypes = map[string]string{
	".html":  "text/html; charset=utf-8",
	".css":   "text/css; charset=utf-8",
	".js":    "text/javascript; charset=utf-8",
	".svg":   "image/svg+xml",
	".woff2": "font/woff2",
	".txt":   "text/plain; charset=utf-8",
}

// pageFiles is every file of the page by its address.
func pageFiles() map[string]pageFile {
	entries, err := page.ReadDir("page")
	if err != nil {
		panic(err)
	}
	files := map[string]pageFile{}
	for _, entry := range entries {
		content, err := page.ReadFile("page/" + entry.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		file := pageFile{content, contentTypes[path.Ext(entry.Name())], `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
		files["/"+entry.Name()] = file
		if entry.Name() == "index.html" {
			files["/"] = file
		}
	}
	return files
}

// serve sends the file; a browser that has this version is told so. It asks every time, so
// that the page of another release never runs against this server.
func (f pageFile) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", f.tag)
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", f.contentType)
	_, _ = w.Write(f.content)
}

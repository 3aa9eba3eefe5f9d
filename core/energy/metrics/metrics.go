// Package metrics turns the lines of a run into Prometheus metrics, so that a live run and a
// replayed one show the same. Units are base units; what is not known has no sample.
package metrics

import (
	"io"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// maxExperts bounds the experts with series of their own: 60 layers of 128 have. A model with
// more has its layers' metrics only.
const maxExperts = 8192

// Registry holds the metrics of one run at a time: a line of kind run begins anew. It is a
// [record.Sink] and an [http.Handler], for concurrent use.
type Registry struct {
	version string
	mutex   sync.RWMutex
	run     *run
}

// New makes an empty registry. version is the release, for build_info.
func New(version string) *Registry {
	r := &Registry{version: version}
	r.run = newRun(version, nil)
	return r
}

// Write takes a line of a run.
func (r *Registry) Write(l record.Line) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if l.Kind == record.KindRun {
		r.run = newRun(r.version, l.Run)
		return nil
	}
	r.run.write(l)
	return nil
}

// Gather collects the metrics, as [prometheus.Gatherer].
func (r *Registry) Gather() ([]*Family, error) {
	r.mutex.RLock()
	defer r.mutex.RUnlock()
	return r.run.registry.Gather()
}

// WriteText writes the metrics in the text format of Prometheus.
func (r *Registry) WriteText(w io.Writer) error {
	families, err := r.Gather()
	if err != nil {
		return err
	}
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(w, family); err != nil {
			return err
		}
	}
	return nil
}

// ServeHTTP answers a scrape.
func (r *Registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	promhttp.HandlerFor(prometheus.GathererFunc(r.Gather), promhttp.HandlerOpts{}).ServeHTTP(w, request)
}

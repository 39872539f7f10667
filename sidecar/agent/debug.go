package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// debugWork is something that a tunnel's spec.debug allows.
type debugWork string

const (
	captureWork debugWork = "capture"
	benchWork   debugWork = "bench"
)

// Why work ends that was not done.
var (
	errWithdrawn = errors.New("spec.debug of the tunnel does not allow it any more")
	errTimeOver  = errors.New("the time is over")
)

// debugging is what is done for those who reach the pod's own loopback: as the tunnel allows it, and one of each at a time.
type debugging struct {
	mu      sync.Mutex // guards what follows
	allowed wire.Debug
	running map[debugWork]context.CancelCauseFunc
}

// set ends what is no longer allowed.
func (d *debugging) set(allowed *wire.Debug) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.allowed = wire.Debug{Capture: allowed.CaptureAllowed(), Bench: allowed.BenchAllowed()}
	for work, end := range d.running {
		if !d.allows(work) {
			end(errWithdrawn)
		}
	}
}

// allows needs the lock.
func (d *debugging) allows(work debugWork) bool {
	switch work {
	case captureWork:
		return d.allowed.Capture
	case benchWork:
		return d.allowed.Bench
	}
	return false
}

// refusal is an answer other than success, with what would be right.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

// begin makes room for one piece of work, whose context ends after a time, or when it is no longer allowed. The caller calls done.
func (d *debugging) begin(ctx context.Context, work debugWork, within time.Duration) (_ context.Context, done func(), _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.allows(work) {
		return nil, nil, &refusal{http.StatusForbidden,
			fmt.Sprintf("spec.debug.%s of the pod's TenantTunnel is not Allowed: whoever may change the tunnel can set it for as long as it is needed", work)}
	}
	if d.running[work] != nil {
		return nil, nil, &refusal{http.StatusConflict, fmt.Sprintf("another %s runs in this pod: one at a time", work)}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, errTimeOver)
	ctx, end := context.WithCancelCause(ctx)
	if d.running == nil {
		d.running = make(map[debugWork]context.CancelCauseFunc, 2)
	}
	d.running[work] = end
	return ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, work)
		end(nil)
		cancel()
	}, nil
}

// debugPath answers a request of the pod's own loopback, and of nobody else: the kernel lets nothing with a loopback address into a pod. It
// takes a POST with JSON alone, which an application that can be made to fetch an address does not send.
func (p *plane) debugPath(f func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		err := error(&refusal{http.StatusForbidden, "this is for 127.0.0.1 alone: forward a port of the pod, as kubectl tenantwire does"})
		switch {
		case !isOwnLoopback(local):
		case r.Header.Get("Content-Type") != "application/json":
			err = &refusal{http.StatusUnsupportedMediaType, "Content-Type: want application/json"}
		default:
			err = f(w, r)
		}
		no := new(refusal)
		switch {
		case err == nil:
		case errors.As(err, &no):
			p.log.Info("request refused", "path", r.URL.Path, "code", no.code, "why", no.text)
			http.Error(w, no.text, no.code)
		default:
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
}

// asked reads what is asked for.
func asked(w http.ResponseWriter, r *http.Request, into interface{ Validate() error }) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, wire.MaxBody))
	d.DisallowUnknownFields() // what is not understood must not be taken for less than it says
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("body: something follows the JSON value")
	}
	return into.Validate()
}

// patientWriter gives each write a time of its own, in place of the server's for the whole answer.
type patientWriter struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
}

// writePatience is how long somebody who has asked may not read.
const writePatience = 10 * time.Second

func patient(w http.ResponseWriter) patientWriter {
	return patientWriter{w, http.NewResponseController(w)}
}

func (p patientWriter) extend() error { return p.ctl.SetWriteDeadline(time.Now().Add(writePatience)) }

// Write implements io.Writer.
func (p patientWriter) Write(b []byte) (int, error) {
	if err := p.extend(); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

// tell has an Event say what is done for those who reach the loopback; who that is, is not known here.
func (p *plane) tell(format string, args ...any) {
	if p.notice != nil {
		p.notice(fmt.Sprintf(format, args...))
	}
}

// notices are told to the coordinator, once each: they are for people, and the log has them too.
func (m *member) tellNotices(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case text := <-m.notices:
			now, known := m.state()
			if known == 0 {
				continue // nobody to tell: registering comes first
			}
			now.Debug = truncate(text, 512)
			if err := m.client.report(ctx, now); err != nil {
				m.Log.Warn("no Event tells of it", "what", text, "error", err.Error())
			}
		}
	}
}

// notice takes a text to tell; one of too many is in the log alone.
func (m *member) notice(text string) {
	select {
	case m.notices <- text:
	default:
	}
}

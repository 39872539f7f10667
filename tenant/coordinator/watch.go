package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
)

// watch streams a member its configuration: what it lacks now, then every change.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, id Identity) error {
	m, ok, err := s.Store.Member(r.Context(), id)
	if err != nil {
		return err
	}
	if !ok || m.Object.Status.PublicKey == "" {
		return later("pod %s has not registered, or this replica does not see it yet", id.Pod)
	}
	began := time.Now()
	tunnel := types.NamespacedName{Namespace: id.Pod.Namespace, Name: m.Object.Spec.Tunnel}
	since, release := s.hub.subscribe(tunnel)
	defer release()
	s.Metrics.watches.Inc()
	defer s.Metrics.watches.Dec()

	age := time.Duration(float64(s.StreamAge) * (0.8 + 0.4*rand.Float64()))
	ctx, cancel := context.WithTimeout(r.Context(), age)
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	st := &stream{server: s, ctl: http.NewResponseController(w), enc: json.NewEncoder(w), member: id.Pod.Name, tunnel: tunnel, join: s.joinOf(m), began: began}
	if err := st.run(ctx, since, r.URL.Query().Get("revision")); err != nil {
		s.Log.V(1).Info("stream ended", "pod", id.Pod.String(), "why", err.Error())
	}
	return nil
}

// stream is one member's watch.
type stream struct {
	server *Server
	ctl    *http.ResponseController
	enc    *json.Encoder
	member string
	tunnel types.NamespacedName

	config   wire.Config // what the member has, as far as we know
	revision string      // of config; empty: nothing was sent

	join  *join // nil: what is sent first is not traced
	began time.Time
}

// run sends until ctx or this replica ends, the member goes away, or there is nothing left to say. known is the revision the member says it has.
// Plans from before since do not count.
func (st *stream) run(ctx context.Context, since time.Time, known string) error {
	beat := time.NewTicker(st.server.Heartbeat)
	defer beat.Stop()
	for {
		network, asOf, changed := st.server.hub.current(st.tunnel)
		if !asOf.Before(since) {
			config, reason := st.plan(network)
			if reason != "" {
				return st.gone(reason)
			}
			planned := time.Now()
			if err := st.advance(config, known); err != nil {
				return err
			}
			st.join.span("plan", st.began, planned, attribute.Int("tenantwire.peers", len(config.Peers)))
			st.join.span("send configuration", planned, time.Now())
			st.join = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-st.server.ending:
			return errors.New("this replica ends")
		case <-changed:
		case <-beat.C:
			if st.revision == "" {
				continue
			}
			if err := st.send(wire.Event{Type: wire.Heartbeat, To: st.revision}); err != nil {
				return err
			}
		}
	}
}

// plan picks the member's part of a tunnel's plan, or says why there is none any more.
func (st *stream) plan(n *tenant.Network) (c wire.Config, gone string) {
	if n == nil {
		return c, fmt.Sprintf("tunnel %s was deleted", st.tunnel.Name)
	}
	c, ok := n.Config(st.member)
	if !ok {
		return c, fmt.Sprintf("pod %s is no longer a member of tunnel %s", st.member, st.tunnel.Name)
	}
	return c, ""
}

// advance sends what leads from the member's configuration to config.
func (st *stream) advance(config wire.Config, known string) error {
	next := config.Revision()
	if next == st.revision {
		return nil
	}
	e := wire.Event{Type: wire.DeltaType, From: st.revision, To: next}
	switch {
	case st.revision == "" && known == next:
		e = wire.Event{Type: wire.Heartbeat, To: next}
	case st.revision == "":
		e = wire.Event{Type: wire.Snapshot, To: next, Config: &config}
	default:
		d := wire.Diff(st.config, config)
		e.Delta = &d
	}
	if err := st.send(e); err != nil {
		return err
	}
	st.config, st.revision = config, next
	return nil
}

func (st *stream) gone(reason string) error {
	st.server.Log.Info("member is told that it is gone", "pod", st.member, "tunnel", st.tunnel.String(), "reason", reason)
	return st.send(wire.Event{Type: wire.Gone, Reason: reason})
}

// send writes one event. A member that does not read for ten seconds is cut off; it resumes when it can. The deadline is lifted
// afterwards: HTTP/2 resets a stream when it passes, written to or not.
func (st *stream) send(e wire.Event) error {
	if err := st.ctl.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	defer func() { _ = st.ctl.SetWriteDeadline(time.Time{}) }()
	if err := st.enc.Encode(e); err != nil {
		return fmt.Errorf("send %s: %w", e.Type, err)
	}
	if err := st.ctl.Flush(); err != nil {
		return fmt.Errorf("flush %s: %w", e.Type, err)
	}
	st.server.Metrics.events.WithLabelValues(string(e.Type)).Inc()
	return nil
}

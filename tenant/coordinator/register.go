package coordinator

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Status is one write to a member's status: exactly one of its fields is set.
type Status struct {
	Registration *wire.Registration
	Ready        *metav1.Condition
}

// httpError is an answer other than success. Its text goes to the member, so it says what to change and no more.
type httpError struct {
	code  int
	text  string
	retry time.Duration // zero: trying again is no use before something changes
}

func (e *httpError) Error() string { return e.text }

func refuse(code int, format string, args ...any) *httpError {
	return &httpError{code: code, text: fmt.Sprintf(format, args...)}
}

func later(format string, args ...any) *httpError {
	return &httpError{code: http.StatusServiceUnavailable, text: fmt.Sprintf(format, args...), retry: time.Second}
}

type handler func(w http.ResponseWriter, r *http.Request, id Identity) error

// authenticated proves who calls before anything else is read of the request.
func (s *Server) authenticated(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := s.identify(r)
		if err == nil {
			err = h(w, r, id)
		}
		code := s.answer(w, r, id, err)
		s.Metrics.requests.WithLabelValues(r.URL.Path, fmt.Sprint(code)).Inc()
	})
}

func (s *Server) identify(r *http.Request) (Identity, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return Identity{}, refuse(http.StatusUnauthorized, "no bearer token")
	}
	select {
	case s.reviews <- struct{}{}:
		defer func() { <-s.reviews }()
	case <-r.Context().Done():
		return Identity{}, r.Context().Err()
	}
	id, err := s.Store.Authenticate(r.Context(), token)
	if errors.Is(err, ErrUnauthenticated) {
		return Identity{}, refuse(http.StatusUnauthorized, "%v", err)
	}
	return id, err
}

// answer writes what err says and returns the status code, for the metric.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, id Identity, err error) int {
	var he *httpError
	switch {
	case err == nil:
		return http.StatusOK
	case r.Context().Err() != nil:
		return 499 // the member went away; nobody reads an answer
	case !errors.As(err, &he):
		s.Log.Error(err, "request failed", "path", r.URL.Path, "pod", id.Pod.String())
		he = later("the coordinator cannot answer now")
	default:
		s.Log.Info("request refused", "path", r.URL.Path, "pod", id.Pod.String(), "remote", r.RemoteAddr, "code", he.code, "why", he.text)
	}
	if he.retry > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(int(he.retry.Seconds())))
	}
	http.Error(w, he.text, he.code)
	return he.code
}

func decode(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, wire.MaxBody))
	if err := d.Decode(v); err != nil {
		return refuse(http.StatusBadRequest, "body: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "body: something follows the JSON value")
	}
	return nil
}

func (s *Server) register(w http.ResponseWriter, r *http.Request, id Identity) error {
	began := time.Now()
	var reg wire.Registration
	if err := decode(w, r, &reg); err != nil {
		return err
	}
	if err := validateRegistration(reg); err != nil {
		return err
	}
	awaits := time.Now()
	m, err := s.awaitMember(r.Context(), id, func(m Member) bool { return endpointProven(reg.Endpoint, m.PodIPs, r.RemoteAddr) })
	if err != nil {
		return err
	}
	var trace *join
	if m.Object.Status.PublicKey == "" { // it joins once, however often it registers
		trace = s.joinOf(m)
	}
	trace.span("await member", awaits, time.Now())
	defer func() { trace.span("register", began, time.Now()) }()
	if err := s.checkUnique(r.Context(), m.Object, reg); err != nil {
		return err
	}
	trace.told(reg.Join)
	// Written even where the cache says so already: it may be behind, and then would undo nothing of what the bearer of a stolen
	// token registered a moment ago. The API server does not store what is the same.
	if err := s.Store.WriteStatus(r.Context(), m.Object, Status{Registration: &reg}); err != nil {
		return err
	}
	if st := &m.Object.Status; string(st.Datapath) != string(reg.Datapath) || st.DatapathReason != reg.DatapathReason {
		s.event(podOf(id), corev1.EventTypeNormal, tenant.ReasonDatapathChosen, "ChooseDatapath", fmt.Sprintf("datapath %s; %s", reg.Datapath, reg.DatapathReason))
	}
	s.Log.Info("member registered", "pod", id.Pod.String(), "tunnel", m.Object.Spec.Tunnel, "publicKey", reg.PublicKey.String(),
		"endpoint", reg.Endpoint.String(), "datapath", string(reg.Datapath), "reason", reg.DatapathReason)
	out := wire.Registered{Tunnel: m.Object.Spec.Tunnel}
	for _, a := range m.Object.Spec.Addresses {
		if ip, err := netip.ParseAddr(a); err == nil {
			out.Addresses = append(out.Addresses, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(out)
}

func validateRegistration(reg wire.Registration) error {
	switch {
	case reg.PublicKey.IsZero():
		return refuse(http.StatusBadRequest, "publicKey: missing")
	case !reg.Endpoint.IsValid() || reg.Endpoint.Port() == 0:
		return refuse(http.StatusBadRequest, "endpoint: %q is not the pod's IP address and a port", reg.Endpoint)
	case !slices.Contains([]datapath.Kind{datapath.Kernel, datapath.TUN, datapath.Netstack}, reg.Datapath):
		return refuse(http.StatusBadRequest, "datapath: %.32q is not Kernel, TUN or Netstack", string(reg.Datapath))
	case len(reg.DatapathReason) > 512:
		return refuse(http.StatusBadRequest, "datapathReason: %d bytes, want at most 512", len(reg.DatapathReason))
	}
	if err := wire.CheckVersion(reg.Version); err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	if err := reg.Join.Validate(); err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	return nil
}

// endpointProven says whether the address that a member gives as its own is: its pod's, or, while the kubelet has not said which
// that is, the one that the request came from. A member could otherwise have its neighbours send handshakes to any address.
func endpointProven(e netip.AddrPort, podIPs []netip.Addr, remote string) bool {
	if len(podIPs) > 0 {
		return slices.Contains(podIPs, e.Addr())
	}
	from, err := netip.ParseAddrPort(remote)
	return err == nil && from.Addr().Unmap() == e.Addr()
}

// awaitMember waits for the controllers to have made the pod's TunnelMember, with an endpoint that proves true: a sidecar may be
// quicker than they are.
func (s *Server) awaitMember(ctx context.Context, id Identity, proven func(Member) bool) (Member, error) {
	end := time.Now().Add(s.JoinWait)
	for {
		m, ok, err := s.Store.Member(ctx, id)
		if err != nil {
			return Member{}, err
		}
		switch {
		case ok && proven(m):
			return m, nil
		case ok && len(m.PodIPs) > 0:
			return Member{}, refuse(http.StatusConflict, "endpoint: not an address of pod %s", id.Pod)
		case time.Now().After(end):
			return Member{}, later("pod %s is not a member of a tunnel yet", id.Pod)
		}
		select {
		case <-ctx.Done():
			return Member{}, ctx.Err()
		case <-s.ending:
			return Member{}, later("pod %s is not a member of a tunnel yet, and this replica ends", id.Pod)
		case <-time.After(10 * time.Millisecond): // a cache look-up
		}
	}
}

// checkUnique refuses a public key that another member or an outside peer of the tunnel has: whichever was configured last would
// take over its traffic. A peer that claims a key which was the member's before, or the gateway's, does not have it: it is the peer
// that is not accepted then.
func (s *Server) checkUnique(ctx context.Context, self *v1alpha1.TunnelMember, reg wire.Registration) error {
	st, ok, err := s.Store.State(ctx, types.NamespacedName{Namespace: self.Namespace, Name: self.Spec.Tunnel})
	if err != nil {
		return err
	}
	if !ok {
		return refuse(http.StatusNotFound, "tunnel %s/%s does not exist", self.Namespace, self.Spec.Tunnel)
	}
	for i := range st.Members {
		m := &st.Members[i]
		shared := m.Spec.Role == v1alpha1.RoleGateway && self.Spec.Role == v1alpha1.RoleGateway // gateways of a tunnel are one to its peers
		if m.Name != self.Name && m.Status.PublicKey == reg.PublicKey.String() && !shared {
			return refuse(http.StatusConflict, "publicKey: already that of member %s", m.Name)
		}
	}
	if self.Status.PublicKey == reg.PublicKey.String() || self.Spec.Role == v1alpha1.RoleGateway {
		return nil
	}
	for i := range st.Peers {
		if p := &st.Peers[i]; p.Spec.PublicKey == reg.PublicKey.String() {
			return refuse(http.StatusConflict, "publicKey: already that of peer %s", p.Name)
		}
	}
	return nil
}

func validateReport(rep wire.Report) error {
	switch {
	case len(rep.Reason) > 512:
		return refuse(http.StatusBadRequest, "reason: %d bytes, want at most 512", len(rep.Reason))
	case len(rep.Debug) > 512:
		return refuse(http.StatusBadRequest, "debug: %d bytes, want at most 512", len(rep.Debug))
	case rep.Ready && rep.DatapathUnavailable:
		return refuse(http.StatusBadRequest, "ready: true without a datapath")
	}
	if err := rep.Join.Validate(); err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	return nil
}

func (s *Server) report(w http.ResponseWriter, r *http.Request, id Identity) error {
	var rep wire.Report
	if err := decode(w, r, &rep); err != nil {
		return err
	}
	if err := validateReport(rep); err != nil {
		return err
	}
	m, ok, err := s.Store.Member(r.Context(), id)
	if err != nil {
		return err
	}
	if !ok {
		return refuse(http.StatusNotFound, "pod %s is not a member of a tunnel", id.Pod)
	}
	if rep.Debug != "" { // a notice alone: what else it says may be older than what was reported since
		s.Log.Info("member debugs", "pod", id.Pod.String(), "what", rep.Debug)
		s.event(podOf(id), corev1.EventTypeNormal, tenant.ReasonDebugging, debugAction(rep.Debug), rep.Debug)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if rep.Ready {
		trace := s.joinOf(m)
		trace.told(rep.Join)
		trace.span("data path up", time.Now(), time.Now())
	}
	c := readyCondition(m.Object, rep)
	// Written even where the cache says so already: it may be behind what another replica wrote.
	if err := s.Store.WriteStatus(r.Context(), m.Object, Status{Ready: &c}); err != nil {
		return err
	}
	if rep.DatapathUnavailable {
		s.event(podOf(id), corev1.EventTypeWarning, tenant.ReasonDatapathUnavailable, "ChooseDatapath", rep.Reason)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// debugAction differs between texts: Events of the same reason and action are one series, which has the text of its first alone. It is one
// of 256, so that a pod that makes up texts does not make Events without bound.
func debugAction(text string) string {
	return fmt.Sprintf("Debug-%02x", sha256.Sum256([]byte(text))[0])
}

func (s *Server) event(about corev1.ObjectReference, kind string, reason tenant.Reason, action, message string) {
	if s.Event != nil {
		s.Event(about, kind, reason, action, message)
	}
}

func podOf(id Identity) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: id.Pod.Namespace, Name: id.Pod.Name, UID: id.UID}
}

// readyCondition keeps the transition time while the status stays the same: a condition must not flap.
func readyCondition(m *v1alpha1.TunnelMember, rep wire.Report) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: string(tenant.ReasonDataPathDown), Message: rep.Reason,
		LastTransitionTime: metav1.Now(), ObservedGeneration: m.Generation}
	switch {
	case rep.DatapathUnavailable:
		c.Reason = string(tenant.ReasonDatapathUnavailable)
	case rep.Ready:
		c.Status, c.Reason = metav1.ConditionTrue, string(tenant.ReasonDataPathUp)
	}
	for _, old := range m.Status.Conditions {
		if old.Type == c.Type && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	return c
}

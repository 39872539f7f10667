package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// podServer is an API server that forwards ports of one pod, by SPDY alone; the cluster tests have the other way.
type podServer struct {
	t      *testing.T
	pod    http.Handler   // nil: nobody listens in the pod
	refuse *metav1.Status // what it says in place of forwarding
	mute   chan struct{}  // not nil: streams are left alone until it is closed
}

func (s *podServer) namespace() *namespace {
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	s.t.Cleanup(server.Close)
	return &namespace{rest: &rest.Config{Host: server.URL}, name: "acme"}
}

func (s *podServer) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/api/v1/namespaces/acme/pods/web/portforward":
		http.NotFound(w, r)
	case s.refuse != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(s.refuse.Code))
		_ = json.NewEncoder(w).Encode(s.refuse)
	case r.Method != http.MethodPost:
		http.Error(w, "no web sockets here", http.StatusBadRequest)
	default:
		if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
			s.t.Error(err)
		}
		streams := make(chan httpstream.Stream)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(st httpstream.Stream, _ <-chan struct{}) error { streams <- st; return nil })
		defer conn.Close()
		for {
			select {
			case failure := <-streams:
				go s.answer(failure, <-streams)
			case <-conn.CloseChan():
				return
			}
		}
	}
}

func (s *podServer) answer(failure, data httpstream.Stream) {
	defer data.Close()
	defer failure.Close()
	if got := []string{failure.Headers().Get(corev1.StreamType), data.Headers().Get(corev1.StreamType), data.Headers().Get(corev1.PortHeader)}; fmt.Sprint(got) != "[error data 51821]" {
		s.t.Errorf("streams %v", got)
	}
	if s.mute != nil {
		<-s.mute
		return
	}
	if s.pod == nil {
		_, _ = io.WriteString(failure, "error forwarding port 51821 to pod: dial tcp4 127.0.0.1:51821: connect: connection refused")
		return
	}
	r, err := http.ReadRequest(bufio.NewReader(data))
	if err != nil {
		s.t.Error(err)
		return
	}
	w := httptest.NewRecorder()
	s.pod.ServeHTTP(w, r)
	var b bytes.Buffer
	res := w.Result()
	if len(res.Trailer) > 0 {
		res.TransferEncoding = []string{"chunked"}
	}
	if err := res.Write(&b); err != nil {
		s.t.Error(err)
	}
	_, _ = io.Copy(struct{ io.Writer }{data}, struct{ io.Reader }{&b}) // in frames; who has read enough resets it
}

func showing(d *wire.Device) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.DevicePath, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(d) })
	return mux
}

func TestDeviceOfPod(t *testing.T) {
	s := podServer{t: t, pod: showing(shown())}
	p, err := s.namespace().openPod(t.Context(), "web")
	must(t, err)
	defer p.close()
	for range 3 { // over one connection
		d, err := p.device(t.Context())
		must(t, err)
		if len(d.Peers) != len(shown().Peers) || d.Peers[2].RxBytes != 7<<20 {
			t.Errorf("%+v", d)
		}
	}
}

func TestDeviceOfPodFails(t *testing.T) {
	status := func(code int32, reason metav1.StatusReason) *metav1.Status {
		return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: code, Reason: reason, Message: "pods \"web\" is not for you"}
	}
	no := shown()
	no.Interface = "wg0\x1b[2J"
	for want, s := range map[string]podServer{
		"the right to create pods/portforward is missing in namespace acme": {refuse: status(403, metav1.StatusReasonForbidden)},
		"namespace acme has no pod web":                                     {refuse: status(404, metav1.StatusReasonNotFound)},
		"nobody answers: the pod has no sidecar of TenantWire":              {},
		"a version that does not show its device":                           {pod: http.NotFoundHandler()},
		`status 500: "no\n"`:                                                {pod: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) })},
		`interface: "wg0\x1b[2J" is not a name`:                             {pod: showing(no)},
		"invalid character":                                                 {pod: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") })},
		fmt.Sprintf("the answer is longer than %d bytes", wire.MaxDevice): {pod: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat(" ", wire.MaxDevice+1))
		})},
	} {
		s.t = t
		p, err := s.namespace().openPod(t.Context(), "web")
		if err == nil {
			_, err = p.device(t.Context())
			p.close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if s.refuse != nil && errors.Is(err, errNoRight) != (s.refuse.Code == 403) {
			t.Errorf("%v: is it for want of a right?", err)
		}
	}
	if _, err := (&namespace{name: "acme"}).openPod(t.Context(), "web/../../other"); err == nil || !strings.Contains(err.Error(), "not the name of a pod") {
		t.Error(err)
	}
}

// A pod that says nothing is not waited for longer than the context lasts.
func TestDeviceOfSilentPod(t *testing.T) {
	s := podServer{t: t, mute: make(chan struct{})}
	n := s.namespace()
	defer close(s.mute)
	p, err := n.openPod(t.Context(), "web")
	must(t, err)
	defer p.close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.device(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the context's end", err)
	}
}

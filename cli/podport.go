package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// askPatience bounds what is asked of one pod, the way to it included.
const askPatience = 10 * time.Second

// errNoRight says that the user may not forward ports of pods in a namespace.
var errNoRight = errors.New("the right to create pods/portforward is missing")

// pod is a way to the loopback of a pod: through the API server and the kubelet, with the user's own rights. No port is opened here.
type pod struct {
	name string
	conn httpstream.Connection

	mu   sync.Mutex
	next int // number of the next request
}

// openPod connects to a pod. What it is asked for is known to be there only when it is asked.
func (n *namespace) openPod(ctx context.Context, name string) (*pod, error) {
	if bad := validation.IsDNS1123Subdomain(name); len(bad) > 0 {
		return nil, fmt.Errorf("%q is not the name of a pod: %s", name, bad[0])
	}
	type outcome struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan outcome, 1)
	go func() { // it takes no context
		conn, err := dialPod(n.rest, n.name, name)
		done <- outcome{conn, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, n.notForwarded(name, o.err)
		}
		return &pod{name: name, conn: o.conn}, nil
	case <-ctx.Done():
		go func() {
			if o := <-done; o.conn != nil {
				_ = o.conn.Close()
			}
		}()
		return nil, fmt.Errorf("connect to pod %s: %w", name, ctx.Err())
	}
}

// dialPod tries a web socket first and then SPDY, as kubectl does: proxies may not know the one, and a role may grant what only the other asks for.
func dialPod(cfg *rest.Config, namespace, name string) (httpstream.Connection, error) {
	u, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, err
	}
	u = u.JoinPath("api", "v1", "namespaces", namespace, "pods", name, "portforward")
	socket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, cfg)
	if err != nil {
		return nil, err
	}
	conn, _, err := socket.Dial(portforward.PortForwardProtocolV1Name)
	again := httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	if refusal := new(httpstream.UpgradeFailureError); errors.As(err, &refusal) {
		err = refusal.Cause
	}
	if err == nil || !again || apierrors.IsNotFound(err) {
		return conn, err
	}
	transport, upgrader, second := spdy.RoundTripperFor(cfg)
	if second != nil {
		return nil, second
	}
	conn, _, second = spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, u).Dial(portforward.PortForwardProtocolV1Name)
	if second != nil && !unanswered(err) {
		return nil, err // the API server's own word, where the other is its text alone
	}
	return conn, second
}

func (n *namespace) notForwarded(name string, err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("forward a port of pod %s: %w in namespace %s", name, errNoRight, n.name)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("namespace %s has no pod %s", n.name, name)
	}
	return fmt.Errorf("forward a port of pod %s: %w", name, err)
}

func (p *pod) close() { _ = p.conn.Close() }

// device asks the pod's sidecar what its device is.
func (p *pod) device(ctx context.Context) (*wire.Device, error) {
	status, b, err := p.get(ctx, injector.HealthPort, wire.DevicePath, wire.MaxDevice)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask the sidecar of pod %s: %w", p.name, err)
	case status == http.StatusNotFound:
		return nil, fmt.Errorf("ask the sidecar of pod %s: it is of a version that does not show its device; restart the pod to have the present one", p.name)
	case status != http.StatusOK:
		return nil, fmt.Errorf("ask the sidecar of pod %s: status %d: %.200q", p.name, status, b)
	}
	return said[wire.Device](b, p.name)
}

// said is what the sidecar of a pod says, in which whoever can write there may have had a hand.
func said[T any, P interface {
	*T
	Validate() error
}](b []byte, pod string) (P, error) {
	var v T
	err := json.Unmarshal(b, &v)
	if err == nil {
		err = P(&v).Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("read what the sidecar of pod %s says: %w", pod, err)
	}
	return &v, nil
}

// get is one request to a port of the pod's loopback. The body has at most limit bytes.
func (p *pod) get(ctx context.Context, port int, path string, limit int64) (status int, body []byte, err error) {
	p.mu.Lock()
	p.next++
	h := http.Header{}
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(p.next))
	p.mu.Unlock()
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	failure, err := p.conn.CreateStream(h)
	if err != nil {
		return 0, nil, err
	}
	defer p.conn.RemoveStreams(failure)
	_ = failure.Close() // nothing is sent that way
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := p.conn.CreateStream(h)
	if err != nil {
		return 0, nil, err
	}
	defer p.conn.RemoveStreams(data)
	stop := context.AfterFunc(ctx, func() { _, _ = data.Reset(), failure.Reset() })
	defer stop()
	status, body, err = exchange(ctx, data, path, limit)
	_ = data.Reset() // or what is left unread would hold up the other stream
	if err == nil {
		return status, body, nil
	}
	if ctx.Err() != nil {
		return 0, nil, ctx.Err()
	}
	why, _ := io.ReadAll(io.LimitReader(failure, 4<<10))
	return 0, nil, notAnswered(string(why), err)
}

// exchange sends a request on a stream and reads the answer.
func exchange(ctx context.Context, s io.ReadWriter, path string, limit int64) (int, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	r.Close = true
	r.Header.Set(wire.DiagnoseHeader, "1") // what is no diagnosis does not look at it
	if err := r.Write(s); err != nil {
		return 0, nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(s), r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return res.StatusCode, b, err
}

// notAnswered makes sense of what the kubelet said of a request that failed with err.
func notAnswered(said string, err error) error {
	switch {
	case strings.Contains(said, "connection refused"):
		return errors.New("nobody answers: the pod has no sidecar of TenantWire, or it does not run")
	case said != "":
		return errors.New(oneLine(said))
	}
	return err
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tenantwire/tenantwire/cli"
	"github.com/tenantwire/tenantwire/sidecar/capture"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// ran is what a command said and how it ended.
type ran struct {
	code      int
	out, said bytes.Buffer
}

// awaited is what one goroutine writes; another may wait for a part of it, and read it when the first is done.
type awaited struct {
	bytes.Buffer
	text  string
	heard chan struct{} // closed once text was written
	once  sync.Once
}

// Write implements io.Writer.
func (a *awaited) Write(b []byte) (int, error) {
	n, err := a.Buffer.Write(b)
	if bytes.Contains(a.Bytes(), []byte(a.text)) {
		a.once.Do(func() { close(a.heard) })
	}
	return n, err
}

func runTenantwire(ctx context.Context, n *kit.Namespace, args ...string) *ran {
	var r ran
	r.code = cli.Run(ctx, "test", append([]string{"-n", n.Name}, args...), cli.Streams{In: strings.NewReader(""), Out: &r.out, Err: &r.said})
	return &r
}

// debugging has the tunnel allow what it says.
func debugging(n *kit.Namespace, capture, bench v1alpha1.DebugAccess) {
	n.T.Helper()
	kit.Change(n, "main", &v1alpha1.TenantTunnel{}, func(t *v1alpha1.TenantTunnel) {
		t.Spec.Debug = &v1alpha1.Debug{Capture: capture, Bench: bench}
	})
}

// Packets are shown as they are inside the tunnel, and the tunnel is measured, only while the tunnel allows it; on the wire they are never seen so.
func TestCapture(t *testing.T) {
	kit.NeedNodes(t)
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) { s.Gateway = &v1alpha1.Gateway{Replicas: 1} })
	server := web(n, 1)[0]
	// One end of each measurement has a fraction of a thread: as fast as it goes, a measurement takes the CPUs from the API server, and every gateway
	// of the tests beside this one loses its Lease.
	client := kit.Pod("client", "serve", "http=:8081")
	client.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("150m")}}
	n.Create(client)
	n.WaitReady("client")
	n.Ask("client", "http://web")
	gateway, _ := activeGateway(n, "")

	for what, args := range map[string][]string{"capture": {"capture", "client"}, "bench": {"bench", "client", server.Name}} {
		if r := runTenantwire(t.Context(), n, args...); r.code != cli.ExitFailed || !strings.Contains(r.said.String(), "spec.debug."+what+" of the pod's TenantTunnel is not Allowed") {
			t.Errorf("%v, which nobody allowed: code %d\n%s", args, r.code, &r.said)
		}
	}
	debugging(n, v1alpha1.DebugAllowed, v1alpha1.DebugAllowed)
	t.Run("shown", func(t *testing.T) { isShown(t, n, server.Name) })
	t.Run("measured", func(t *testing.T) {
		isMeasured(t, n, "client", server.Name)
		isMeasured(t, n, gateway, "client")
	})
	t.Run("withdrawn", func(t *testing.T) {
		said := &awaited{text: "capturing in pod client", heard: make(chan struct{})}
		done := make(chan int, 1)
		go func() {
			done <- cli.Run(t.Context(), "test", []string{"-n", n.Name, "capture", "client", "udp", "and", "port", "9"},
				cli.Streams{In: strings.NewReader(""), Out: io.Discard, Err: said})
		}()
		select {
		case <-said.heard:
		case code := <-done:
			t.Fatalf("it did not begin: code %d\n%s", code, said)
		}
		eventOf(n, "client", "Debugging")
		debugging(n, v1alpha1.DebugForbidden, v1alpha1.DebugAllowed)
		if code := <-done; code != 0 || !strings.Contains(said.String(), "does not allow it any more") {
			t.Errorf("code %d\n%s", code, said)
		}
	})
}

// isShown has the client ask for a marker, which the capture shows in clear and the nodes do not.
func isShown(t *testing.T, n *kit.Namespace, server string) {
	marker := "clear-" + strconv.FormatUint(rand.Uint64(), 36)
	onTheWire := invCapture(t, cluster)
	done := make(chan *ran, 1)
	go func() {
		var r *ran
		for r == nil || strings.Contains(r.said.String(), "is not Allowed") && t.Context().Err() == nil { // the change is on its way
			r = runTenantwire(t.Context(), n, "capture", "client", "-w", "-", "--count", "40", "--duration", "60s", "tcp and port 8080 and peer "+server)
		}
		done <- r
	}()
	var r *ran
	for r == nil {
		n.Ask("client", "http://web/"+marker)
		select {
		case r = <-done:
		default:
		}
	}
	onTheWire.stop()
	if r.code != 0 || !strings.Contains(r.said.String(), "40 packets captured, 0 dropped") {
		t.Fatalf("code %d\n%s", r.code, &r.said)
	}
	inside, err := capture.NewReader(bytes.NewReader(r.out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for {
		p, err := inside.Next()
		if err != nil {
			break
		}
		if bytes.Contains(p.Data, []byte(marker)) {
			seen++
		}
	}
	if seen == 0 {
		t.Error("the marker is not shown in clear")
	}
	if outside := onTheWire.count(marker); outside.Marker != 0 || outside.WireGuardData == 0 {
		t.Errorf("on the wire: %+v", outside)
	}
}

func isMeasured(t *testing.T, n *kit.Namespace, from, to string) {
	r := runTenantwire(t.Context(), n, "bench", from, to, "--duration", "1s", "--streams", "2", "-o", "json")
	var got struct{ Phases []wire.BenchPhase }
	if err := json.Unmarshal(r.out.Bytes(), &got); err != nil || r.code != 0 || len(got.Phases) != 5 {
		t.Fatalf("from %s to %s: code %d, %v\n%s%s", from, to, r.code, err, &r.out, &r.said)
	}
	for _, p := range got.Phases {
		if p.RoundTrips == 0 || p.P99Micros <= 0 || p.Streams > 0 && p.BitsPerSecond <= 0 {
			t.Errorf("from %s to %s: %+v", from, to, p)
		}
	}
	t.Logf("from %s to %s: %s", from, to, r.out.String())
}

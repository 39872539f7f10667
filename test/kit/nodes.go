package kit

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// NeedNodes skips a test that looks into nodes where that is not possible.
func NeedNodes(t T) {
	t.Helper()
	if state := os.Getenv("TW_STATE"); state == "" || os.Getenv("KUBECONFIG") != filepath.Join(state, "kubeconfig") {
		t.Skipf("the cluster was not started by test/cluster/with-cluster.sh: its nodes cannot be entered")
	}
}

func script(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(root(), "test", "cluster", name), args...)
}

// NodeExec runs a command on a node ("node1"), or beside the control plane ("cp").
func NodeExec(t T, node string, command ...string) string {
	t.Helper()
	out, err := nodeExec(t.Context(), node, command...)
	if err != nil {
		t.Fatalf("run %v on %s: %v", command, node, err)
	}
	return out
}

func nodeExec(ctx context.Context, node string, command ...string) (string, error) {
	c := script(ctx, "node-exec.sh", append([]string{strings.TrimPrefix(node, "node")}, command...)...)
	out, err := c.Output()
	if err != nil {
		var stderr []byte
		if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output returns it as it is
			stderr = e.Stderr
		}
		return "", fmt.Errorf("%w: %s%s", err, out, stderr)
	}
	return string(out), nil
}

// APIServer kills, stops or starts the API server; see test/cluster/apiserver.sh. One that was stopped is started again when the
// test ends, before the namespaces of the test are removed. After kill and start it returns when Kubernetes' own controllers follow
// again: left alone they back off for a minute and more, and tests are not to measure that.
func (c *Cluster) APIServer(t T, verb string) {
	t.Helper()
	if verb == "stop" {
		t.Cleanup(func() {
			if out, err := script(context.Background(), "apiserver.sh", "start").CombinedOutput(); err != nil {
				t.Errorf("start the API server: %v: %s", err, out)
			}
		})
	}
	if out, err := script(t.Context(), "apiserver.sh", verb).CombinedOutput(); err != nil {
		t.Fatalf("%s the API server: %v: %s", verb, err, out)
	}
	if verb != "stop" {
		for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
			restartControlPlane(t, name)
		}
		Eventually(t, 2*Deadline, "endpoints of a new Service", func() error { return c.settled(t.Context()) })
	}
}

// restartControlPlane ends a process of the control plane, as losing a lease does where it has replicas; its supervisor starts it again.
func restartControlPlane(t T, name string) {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(os.Getenv("TW_STATE"), "cp", name+".pid"))
	if err != nil {
		t.Fatalf("find %s: %v", name, err)
	}
	NodeExec(t, "cp", "kill", "-KILL", strings.TrimSpace(string(pid)))
}

// settled tries whether a Service gets its endpoints. Each time it is another one: for those that had to wait, Kubernetes tries less
// and less often.
func (c *Cluster) settled(ctx context.Context) error {
	s := Service("", "80")
	s.GenerateName, s.Namespace = "settled-", SystemNamespace
	s.Spec.Selector = map[string]string{"app.kubernetes.io/name": OperatorName}
	if err := c.Create(ctx, s); err != nil {
		return err
	}
	defer func() { _ = c.Delete(context.WithoutCancel(ctx), s) }()
	return Poll(ctx, 3*time.Second, func() error {
		var l discoveryv1.EndpointSliceList
		if err := c.List(ctx, &l, client.InNamespace(s.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: s.Name}); err != nil {
			return err
		}
		for _, e := range l.Items {
			if len(e.Endpoints) > 0 {
				return nil
			}
		}
		return fmt.Errorf("none yet")
	})
}

// task is a running container as its node knows it: the API server need not be there.
type task struct {
	id  string
	pid string
}

// runningTask finds the container of a pod that runs now.
func runningTask(ctx context.Context, p *corev1.Pod, container string) (task, error) {
	ids, err := nodeExec(ctx, p.Spec.NodeName, "ctr", "-n", "k8s.io", "containers", "ls", "-q",
		fmt.Sprintf(`labels."io.kubernetes.pod.uid"==%s,labels."io.kubernetes.container.name"==%s`, p.UID, container))
	if err != nil {
		return task{}, err
	}
	tasks, err := nodeExec(ctx, p.Spec.NodeName, "ctr", "-n", "k8s.io", "tasks", "ls")
	if err != nil {
		return task{}, err
	}
	for line := range strings.Lines(tasks) { // ID PID STATUS
		if f := strings.Fields(line); len(f) == 3 && f[2] == "RUNNING" && strings.Contains(ids, f[0]) {
			return task{f[0], f[1]}, nil
		}
	}
	return task{}, fmt.Errorf("container %s of pod %s does not run on %s", container, p.Name, p.Spec.NodeName)
}

// ContainerPID is the process of a pod's container on its node, from the container's id in the pod's status.
func ContainerPID(t T, node, containerID string) int {
	t.Helper()
	_, id, _ := strings.Cut(containerID, "://")
	for line := range strings.Lines(NodeExec(t, node, "ctr", "-n", "k8s.io", "tasks", "ls")) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == id {
			if pid, err := strconv.Atoi(f[1]); err == nil {
				return pid
			}
		}
	}
	t.Fatalf("no process of container %s on %s", containerID, node)
	return 0
}

// RunOnNode runs workload with arguments in a pod's application container, from its node: no API server is asked.
func RunOnNode(t T, p *corev1.Pod, args ...string) (string, error) {
	t.Helper()
	k, err := runningTask(t.Context(), p, AppContainer)
	if err != nil {
		return "", err
	}
	id := strconv.FormatInt(time.Now().UnixNano(), 36)
	return nodeExec(t.Context(), p.Spec.NodeName, append([]string{"ctr", "-n", "k8s.io", "tasks", "exec", "--exec-id", id, k.id, "/workload"}, args...)...)
}

// KillSidecar ends a pod's sidecar as a crash would, and returns when it runs again: as another process, ready or not.
func KillSidecar(t T, p *corev1.Pod) {
	t.Helper()
	before, err := runningTask(t.Context(), p, Sidecar)
	if err != nil {
		t.Fatalf("find the sidecar: %v", err)
	}
	NodeExec(t, p.Spec.NodeName, "kill", "-KILL", before.pid)
	Eventually(t, Deadline, "another sidecar in "+p.Name, func() error {
		now, err := runningTask(t.Context(), p, Sidecar)
		if err == nil && now.id == before.id {
			return fmt.Errorf("the one before runs")
		}
		return err
	})
}

// KillContainer ends what runs in a pod's container as a crash would, and does not wait for it to come back.
func KillContainer(t T, p *corev1.Pod, container string) {
	t.Helper()
	Eventually(t, Deadline, "container "+container+" in "+p.Name, func() error {
		k, err := runningTask(t.Context(), p, container)
		if err == nil {
			_, err = nodeExec(t.Context(), p.Spec.NodeName, "kill", "-KILL", k.pid)
		}
		return err
	})
}

// WaitSidecarRestart waits until the kubelet reports a pod's sidecar running again in another container than before.
func (n *Namespace) WaitSidecarRestart(before *corev1.Pod) *corev1.Pod {
	n.T.Helper()
	p, was := &corev1.Pod{}, SidecarStatus(before).ContainerID
	Eventually(n.T, Deadline, fmt.Sprintf("restart of the sidecar of %s/%s", n.Name, before.Name), func() error {
		if err := n.Cluster.Get(n.T.Context(), client.ObjectKeyFromObject(before), p); err != nil {
			return err
		}
		if s := SidecarStatus(p); s == nil || s.ContainerID == was || s.State.Running == nil || !s.Ready || !IsReady(p) {
			return fmt.Errorf("%s", Describe(p))
		}
		return nil
	})
	return p
}

// Capture is a recording of what crosses a node's interfaces.
type Capture struct {
	t    T
	file string
	cmd  *exec.Cmd
}

// PacketCount is what a capture holds, as clustertool pcapstat tells it.
type PacketCount struct {
	Packets, WireGuard, WireGuardData int
	Marker                            int // packets that contain the marker
	MarkerFlows                       []string
}

// StartCapture records node's traffic from now on, but that of its loopback interface.
func StartCapture(t T, node string, dir string) *Capture {
	t.Helper()
	c := &Capture{t: t, file: filepath.Join(dir, node+".pcap")}
	c.cmd = script(context.Background(), "capture.sh", strings.TrimPrefix(node, "node"), c.file)
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		t.Fatalf("start capture: %v", err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); err != nil || strings.TrimSpace(line) != "capturing" {
		t.Fatalf("start capture: %q, %v", line, err)
	}
	return c
}

// File is the capture in pcap format, complete after Stop.
func (c *Capture) File() string { return c.file }

// Stop ends the recording and counts packets, and those that hold marker in plaintext.
func (c *Capture) Stop(marker string) PacketCount {
	c.t.Helper()
	// What was sent just now may still be on its way through the kernel: the capture reads on until the socket is empty.
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatalf("stop capture: %v", err)
	}
	if err := c.cmd.Wait(); err != nil {
		c.t.Fatalf("stop capture: %v", err)
	}
	return c.Count(marker)
}

// Count counts again, for another marker.
func (c *Capture) Count(marker string) PacketCount {
	c.t.Helper()
	out, err := exec.Command("clustertool", "pcapstat", "-f", c.file, "-marker", marker).Output()
	if err != nil {
		c.t.Fatalf("count packets: %v", err)
	}
	var n PacketCount
	if err := json.Unmarshal(out, &n); err != nil {
		c.t.Fatalf("count packets: %v", err)
	}
	return n
}

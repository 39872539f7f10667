package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

// Result of a command in a container.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// String is for messages.
func (r Result) String() string {
	return fmt.Sprintf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
}

// execDeadline bounds one command; the slowest carry hundreds of megabytes.
const execDeadline = 3 * time.Minute

// workloadPath is where images have the test's own program.
const workloadPath = "/workload"

// Run executes workload with arguments in a container. Only an execution that did not happen is an error.
func (n *Namespace) Run(pod, container string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(n.T.Context(), execDeadline)
	defer cancel()
	r, err := n.runner(pod, container).run(ctx, args)
	if err == nil || ctx.Err() != nil {
		return r, err
	}
	n.T.Logf("%v in %s/%s/%s, once more on its own, as the container is another or goes: %v", args, n.Name, pod, container, err)
	return n.once(ctx, pod, container, append([]string{workloadPath}, args...))
}

// once executes a command on its own.
func (n *Namespace) once(ctx context.Context, pod, container string, command []string) (Result, error) {
	var stdout, stderr bytes.Buffer
	err := n.stream(ctx, pod, container, command, nil, &stdout, &stderr)
	r := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		r.Code, err = exit.Code, nil
	}
	return r, err
}

// stream executes a command until it ends, with these as its standard streams.
func (n *Namespace) stream(ctx context.Context, pod, container string, command []string, in io.Reader, out, errs io.Writer) error {
	req := n.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(n.Name).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdin: in != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(n.Config, http.MethodGet, req.URL().String())
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: errs})
}

// Exec runs workload with arguments in a container of a pod.
func (n *Namespace) Exec(pod, container string, args ...string) Result {
	n.T.Helper()
	r, err := n.Run(pod, container, args...)
	if err != nil {
		n.T.Fatalf("exec %v in %s/%s/%s: %v\n%s", args, n.Name, pod, container, err, r)
	}
	return r
}

// App runs workload with arguments in a pod's application container; anything but success ends the test.
func (n *Namespace) App(pod string, args ...string) string {
	n.T.Helper()
	r := n.Exec(pod, AppContainer, args...)
	if r.Code != 0 {
		n.T.Fatalf("%s in %s/%s: %s", strings.Join(args, " "), n.Name, pod, r)
	}
	return r.Stdout
}

// EventuallyApp does the same until it succeeds.
func (n *Namespace) EventuallyApp(pod string, args ...string) string {
	n.T.Helper()
	var out string
	Eventually(n.T, Deadline, fmt.Sprintf("%s in %s/%s", strings.Join(args, " "), n.Name, pod), func() error {
		r, err := n.Run(pod, AppContainer, args...)
		if err != nil {
			return err
		}
		if r.Code != 0 {
			return errors.New(r.String())
		}
		out = r.Stdout
		return nil
	})
	return out
}

// Hello is what the http role answers: who answers, and from where it was asked.
type Hello struct {
	Host  string   `json:"host"`
	IPs   []string `json:"ips"`
	From  string   `json:"from"`
	Asked string   `json:"asked"`
	UID   int      `json:"uid"`
}

// ParseHello reads one line of "workload get": URL STATUS BODY.
func ParseHello(line string) (Hello, error) {
	var h Hello
	f := strings.SplitN(strings.TrimSpace(line), " ", 3)
	if len(f) < 3 || f[1] != "200" {
		return h, fmt.Errorf("no answer: %q", line)
	}
	return h, json.Unmarshal([]byte(f[2]), &h)
}

// Ask gets a URL from a pod's application and returns what answered.
func (n *Namespace) Ask(pod, url string) Hello {
	n.T.Helper()
	h, err := ParseHello(n.App(pod, "get", url))
	if err != nil {
		n.T.Fatalf("get %s in %s/%s: %v", url, n.Name, pod, err)
	}
	return h
}

// Logs are a container's, as of now.
func (n *Namespace) Logs(ctx context.Context, pod string, o corev1.PodLogOptions) (string, error) {
	r, err := n.Kube.CoreV1().Pods(n.Name).GetLogs(pod, &o).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

// Fetch asks a pod's HTTP endpoint through the API server.
func (c *Cluster) Fetch(ctx context.Context, namespace, pod string, port int, path string) (string, error) {
	b, err := c.Kube.CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").Name(fmt.Sprintf("%s:%d", pod, port)).
		SubResource("proxy").Suffix(path).DoRaw(ctx)
	return string(b), err
}

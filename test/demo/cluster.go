package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// kubectl runs a command as a person would and returns what it printed. The error holds what it complained of.
func kubectl(ctx context.Context, args ...string) (string, error) {
	return kubectlWith(ctx, "", args...)
}

func kubectlWith(ctx context.Context, stdin string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "kubectl", args...)
	c.Stdin = strings.NewReader(stdin)
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// read decodes what `kubectl get -o json` prints of the given objects.
func read[T any](ctx context.Context, args ...string) (T, error) {
	var v T
	out, err := kubectl(ctx, append(append([]string{"get"}, args...), "-o", "json")...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("read %s: %w", strings.Join(args, " "), err)
	}
	return v, nil
}

// The parts of objects that the demo shows.
type (
	metadata struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	}
	condition struct{ Type, Status, Reason, Message string }
	container struct {
		Name            string
		Image           string
		RestartPolicy   string
		SecurityContext json.RawMessage
		Ports           []struct {
			Name          string
			ContainerPort int
		}
	}
	pod struct {
		Metadata metadata `json:"metadata"`
		Spec     struct {
			InitContainers []container
			Containers     []container
			HostAliases    []any
			Volumes        []struct{ Name string }
		}
		Status struct{ PodIP string }
	}
	pods   struct{ Items []pod }
	tunnel struct {
		Status struct {
			Conditions []condition
			Addressing struct{ IPv6Prefix, IPv4Pool string }
		}
	}
	member struct {
		Metadata metadata `json:"metadata"`
		Spec     struct{ Addresses []string }
		Status   struct {
			Datapath   string
			Conditions []condition
		}
	}
	members struct{ Items []member }
)

func status(cs []condition, kind string) string {
	for _, c := range cs {
		if c.Type == kind {
			return c.Status
		}
	}
	return "Unknown"
}

// answer is what the workload's http role says of itself.
type answer struct {
	Host, Path, Asked, Body string
}

// get lets a container of a tenant's client ask for a URL, and returns the answers, and all that the client printed.
func get(ctx context.Context, namespace, container string, args ...string) ([]answer, string, error) {
	all := append([]string{"exec", "-n", namespace, "deploy/client", "-c", container, "--", "/workload", "get"}, args...)
	out, err := kubectl(ctx, all...)
	var answers []answer
	for line := range strings.Lines(out) {
		var a answer
		if at := strings.IndexByte(line, '{'); at >= 0 && json.Unmarshal([]byte(line[at:]), &a) == nil {
			answers = append(answers, a)
		}
	}
	return answers, strings.TrimSpace(out), err
}

// capture records what crosses the node's interfaces until stop is called.
type capture struct {
	file string
	cmd  *exec.Cmd
}

// captureNodes starts a capture on every node. With an error it returns those that run.
func captureNodes(ctx context.Context, scripts, dir string) ([]*capture, error) {
	nodes, err := read[struct {
		Items []struct {
			Metadata metadata `json:"metadata"`
		}
	}](ctx, "nodes")
	if err != nil {
		return nil, err
	}
	var captures []*capture
	for _, n := range nodes.Items {
		c, err := startCapture(scripts, dir, n.Metadata.Name)
		if err != nil {
			return captures, err
		}
		captures = append(captures, c)
	}
	return captures, nil
}

// wire is what a capture shows.
type wire struct {
	Packets, WireGuardData, Marker int
	MarkerFlows                    []string
}

// startCapture returns when the capture of a node has begun.
func startCapture(scripts, dir, node string) (*capture, error) {
	c := &capture{file: filepath.Join(dir, node+".pcap")}
	c.cmd = exec.Command(filepath.Join(scripts, "capture.sh"), strings.TrimPrefix(node, "node"), c.file)
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for us to pass on
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start capture on %s: %w", node, err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "capturing" {
		_ = c.stop()
		return nil, fmt.Errorf("start capture on %s: it says %q: %w", node, line, err)
	}
	return c, nil
}

func (c *capture) stop() error {
	time.Sleep(200 * time.Millisecond) // what is on its way still counts
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGTERM)
	return c.cmd.Wait()
}

// count reads the capture for a marker.
func (c *capture) count(marker string) (wire, error) {
	var w wire
	out, err := exec.Command("clustertool", "pcapstat", "-f", c.file, "-marker", marker).Output()
	if err != nil {
		return w, fmt.Errorf("read %s: %w", c.file, err)
	}
	return w, json.Unmarshal(out, &w)
}

// countAll adds up what all captures show.
func countAll(captures []*capture, marker string) (sum wire, err error) {
	for _, c := range captures {
		w, err := c.count(marker)
		if err != nil {
			return sum, err
		}
		sum.Packets, sum.WireGuardData, sum.Marker = sum.Packets+w.Packets, sum.WireGuardData+w.WireGuardData, sum.Marker+w.Marker
		sum.MarkerFlows = append(sum.MarkerFlows, w.MarkerFlows...)
	}
	return sum, nil
}

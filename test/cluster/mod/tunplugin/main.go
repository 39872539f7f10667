// Command tunplugin is a device plugin: it offers the kubelet /dev/net/tun, as often as pods want it, under the name of an extended
// resource. A container that asks for one gets the device; nothing else of the node comes with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	dp "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const device = "/dev/net/tun"

func main() {
	resource := flag.String("resource", "tenantwire.test/tun", "name of the extended resource")
	count := flag.Int("count", 100, "how many containers of this node can have the device")
	flag.Parse()
	if err := run(*resource, *count); err != nil {
		fmt.Fprintln(os.Stderr, "tunplugin:", err)
		os.Exit(1)
	}
}

// run serves until the kubelet forgets us: it removes the sockets of all plugins when it starts.
func run(resource string, count int) error {
	socket := filepath.Join(dp.DevicePluginPath, "tenantwire-tun.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of an earlier run: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := grpc.NewServer()
	dp.RegisterDevicePluginServer(s, plugin{count: count})
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	if err := register(resource, filepath.Base(socket)); err != nil {
		return err
	}
	fmt.Println("registered", resource)
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case <-time.After(time.Second):
		}
		if _, err := os.Stat(socket); err != nil {
			return fmt.Errorf("the kubelet started again: %w", err)
		}
	}
}

func register(resource, endpoint string) error {
	c, err := grpc.NewClient("unix://"+dp.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("dial the kubelet: %w", err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r := &dp.RegisterRequest{Version: dp.Version, Endpoint: endpoint, ResourceName: resource}
	if _, err := dp.NewRegistrationClient(c).Register(ctx, r); err != nil {
		return fmt.Errorf("register with the kubelet: %w", err)
	}
	return nil
}

type plugin struct {
	dp.UnimplementedDevicePluginServer
	count int
}

func (plugin) GetDevicePluginOptions(context.Context, *dp.Empty) (*dp.DevicePluginOptions, error) {
	return &dp.DevicePluginOptions{}, nil
}

// ListAndWatch says once what there is; it does not change.
func (p plugin) ListAndWatch(_ *dp.Empty, s grpc.ServerStreamingServer[dp.ListAndWatchResponse]) error {
	r := &dp.ListAndWatchResponse{}
	for i := range p.count {
		r.Devices = append(r.Devices, &dp.Device{ID: fmt.Sprintf("tun-%d", i), Health: dp.Healthy})
	}
	if err := s.Send(r); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (plugin) Allocate(_ context.Context, r *dp.AllocateRequest) (*dp.AllocateResponse, error) {
	out := &dp.AllocateResponse{}
	for range r.ContainerRequests {
		out.ContainerResponses = append(out.ContainerResponses, &dp.ContainerAllocateResponse{
			Devices: []*dp.DeviceSpec{{ContainerPath: device, HostPath: device, Permissions: "rw"}}})
	}
	return out, nil
}

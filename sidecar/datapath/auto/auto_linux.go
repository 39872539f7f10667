package auto

import (
	"log/slog"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/kernel"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

func systemOpeners() []opener {
	return []opener{
		{kind: datapath.Kernel, hubByName: true, probe: kernel.Probe,
			open: func(o Options) (datapath.Datapath, error) { return opened(kernel.Open(kernel.Options(o.link()))) }},
		{kind: datapath.TUN, probe: tun.Probe, open: func(o Options) (datapath.Datapath, error) { return opened(tun.Open(tun.Options(o.link()))) }},
	}
}

// linkOptions are those of a datapath with a real interface.
type linkOptions struct {
	Name       string
	PrivateKey key.Private
	ListenPort uint16
	Interface  datapath.Interface
	Apart      bool
	Fence      *datapath.Fence
	Logger     *slog.Logger
}

func (o Options) link() linkOptions {
	return linkOptions{o.Name, o.PrivateKey, o.ListenPort, o.Interface, o.Apart, o.Fence, o.Logger}
}

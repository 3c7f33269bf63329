package loader

import (
	"context"
	"errors"

	"mef/internal/rules"
)

type iptables struct{}

var errNotYet = errors.New("the iptables backend is not there")

func iptablesReady(context.Context) error                  { return errNotYet }
func (iptables) String() string                            { return "iptables" }
func (iptables) load(context.Context, *rules.Policy) error { return errNotYet }
func (iptables) clear(context.Context) error               { return errNotYet }
func (iptables) held(context.Context) (string, error)      { return "", errNotYet }
func (iptables) script(*rules.Policy) (string, error)      { return "", errNotYet }
func (iptables) list(context.Context) (string, error)      { return "", errNotYet }

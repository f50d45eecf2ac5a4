package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// oneDatabase resolves every reference to one URL.
type oneDatabase string

func (d oneDatabase) Resolve(context.Context, string) (string, error) { return string(d), nil }

// moveChild moves a tenant, says at which step it is, and stops for good at
// the one that the environment names.
func moveChild() error {
	ctx := context.Background()
	config, err := tenancy.ControlConfig(os.Getenv("CHILD_URL"))
	if err != nil {
		return err
	}
	control, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	data, err := tenancy.NewData(control, &tenancy.DataOptions{Databases: oneDatabase(os.Getenv("CHILD_AWAY")), Files: sqlFiles("0001_crew.sql", crewTables)})
	if err != nil {
		return err
	}
	m, err := tenancy.NewMover(data, nil)
	if err != nil {
		return err
	}
	m.SetStep(func(step string) {
		fmt.Println("at", step)
		if step == os.Getenv("CHILD_STOP") {
			select {}
		}
	})
	to, err := tenancy.ParsePlacement(os.Getenv("CHILD_TO"))
	if err != nil {
		return err
	}
	if _, err = m.Move(ctx, tenant.MustParseID(os.Getenv("CHILD_TENANT")), to); err == nil {
		err = errors.New("moved without a stop")
	}
	return err
}

// deaths are the points at which a move is killed, within a database and
// between two.
var deaths = map[bool][]string{
	true: {"begun", "now copying", "fenced", "captured items", "captured tenant_marker", "copied items", "now copied", "carried over",
		"compared", "now caught_up", "switching", "switched", "released", "kept"},
	false: {"begun", "now copying", "fenced", "captured items", "captured tenant_marker", "copied items", "applied", "now copied", "carried over",
		"compared", "now caught_up", "now switching", "source closed", "target filled", "target opened", "switched", "released", "kept"},
}

// recovered has tenants that are nowhere let in again: those whose mover died at one
// of the steps of a switch between two databases.
func (c *crew) recovered(t *testing.T, m *tenancy.Mover, step string) {
	t.Helper()
	if !slices.Contains([]string{"now switching", "source closed", "target filled", "target opened"}, step) {
		n, err := m.Recover(t.Context())
		require.NoError(t, err)
		require.Zero(t, n, step)
		return
	}
	require.Eventually(t, func() bool { // as soon as the server knows of the death
		n, err := m.Recover(t.Context())
		require.NoError(t, err)
		return n == 1
	}, time.Minute, time.Millisecond, step)
	c.until(t, 50)
}

// TestMoveKilled kills the mover with kill -9 at each of its steps, and has
// another go on, or abort where that is possible, while eight writers write: every
// acknowledged write is there once. Its long form kills at each step twice, there
// and back, to give up once and to go on once.
// Mutations seen: a copy begun again on top of the rows of the first; a switch
// that was cut short not undone first (it comes to no end); Recover that leaves the source
// shut (nobody writes).
func TestMoveKilled(t *testing.T) {
	t.Parallel()
	away := devtest.DB(t, devtest.Template{Name: "empty"})
	for name, ways := range map[string][]tenancy.Placement{
		"schema":          {schemaPlace, sharedPlace},
		"database":        {awayPlace, sharedPlace},
		"schema database": {schemaPlace, awayPlace},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrew(t, 8, nil)
			c.away("away", away)
			m := c.mover(t, nil)
			at := sharedPlace
			go2 := func(to tenancy.Placement) {
				_, err := m.Move(t.Context(), c.id, to)
				require.NoError(t, err)
				at = to
			}
			c.start(t)
			c.until(t, 200)
			if name == "schema database" {
				go2(awayPlace)
			}
			kills := 0
			next := ways[0]
			if at == next {
				next = ways[1]
			}
			for i, step := range deaths[name == "schema"] {
				times := 1
				if devtest.Soak() {
					times = len(ways) // there and back
				}
				for n := range times {
					child := startChild(t, "move", "CHILD_URL="+c.home.As(devstack.OwnerRole), "CHILD_AWAY="+away.As(devstack.OwnerRole),
						"CHILD_TENANT="+c.id.String(), "CHILD_TO="+next.String(), "CHILD_STOP="+step)
					child.until("at " + step)
					child.kill()
					kills++
					c.recovered(t, m, step)
					if (i+n)%2 == 1 { // in the long form each is given up once, and taken up once
						err := m.Abort(t.Context(), c.id)
						switch step {
						case "switched", "released":
							require.ErrorIs(t, err, tenancy.ErrMoveSwitched)
						case "kept":
							require.ErrorIs(t, err, tenancy.ErrNoMove)
						default:
							require.NoError(t, err, step)
							c.until(t, 50) // it is at home where it was
						}
					}
					go2(next)
					next = ways[0]
					if at == next {
						next = ways[1]
					}
				}
			}
			c.until(t, 7000-c.acked.Load()) // 20,000 between the three
			c.verify(t)
			t.Logf("%d kills, %d writes acknowledged, none lost or doubled", kills, c.acked.Load())
		})
	}
}

// What a dashboard's JSON has to be, by Grafana's own types: the dashboard, and for each kind of
// panel used here its options and field settings. Grafana's types leave those two open.
import type { Dashboard, Panel, RowPanel } from '@grafana/schema';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as series from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** A value of T as JSON has it: an enum of strings is one of its strings. */
type Json<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends (infer Item)[]
      ? Json<Item>[]
      : T extends object
        ? { [Key in keyof T]: Json<T[Key]> }
        : T;

/** A panel of one kind, without what is open. */
type Of<Kind extends string, Options, Custom> = Omit<Json<Panel>, 'type' | 'options' | 'fieldConfig'> & {
  type: Kind;
  title: string;
  description: string;
  options: Json<Options>;
  fieldConfig: Omit<Json<NonNullable<Panel['fieldConfig']>>, 'defaults'> & {
    defaults: Omit<Json<NonNullable<Panel['fieldConfig']>['defaults']>, 'custom'> & {
      unit: string;
      custom?: Json<Custom>;
    };
  };
};

export type Page = Omit<Json<Dashboard>, 'panels'> & {
  panels: (
    | Of<'stat', stat.Options, Record<string, never>>
    | Of<'timeseries', series.Options, series.FieldConfig>
    | Of<'heatmap', heatmap.Options, heatmap.FieldConfig>
    | (Omit<Json<RowPanel>, 'type'> & { type: 'row' })
  )[];
};

// A chart of bars as SVG, drawn without a browser.
import { BarChart } from 'echarts/charts'
import { GridComponent, TitleComponent } from 'echarts/components'
import { init, use } from 'echarts/core'
import { SVGRenderer } from 'echarts/renderers'

use([BarChart, GridComponent, TitleComponent, SVGRenderer])

/** Horizontal bars on a logarithmic scale, the first at the top. Legible on light and dark pages. */
export function bars(title, rows, { width = 860 } = {}) {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width, height: 64 + rows.length * 26 })
  try {
    chart.setOption({
      animation: false,
      backgroundColor: '#ffffff',
      textStyle: { fontFamily: 'sans-serif' },
      title: { text: title, left: 12, top: 10, textStyle: { fontSize: 15, fontWeight: 'normal', color: '#222222' } },
      grid: { left: 330, right: 80, top: 44, bottom: 12 },
      xAxis: { type: 'log', min: 10, show: false },
      yAxis: { type: 'category', inverse: true, data: rows.map(({ name }) => name), axisTick: { show: false }, axisLine: { show: false }, axisLabel: { fontSize: 13, color: '#222222' } },
      series: [{
        type: 'bar',
        barWidth: 16,
        label: { show: true, position: 'right', fontSize: 13, color: '#222222' },
        data: rows.map(({ value, text, ours }) => ({ value, label: { formatter: text }, itemStyle: { color: ours ? '#1f7a4d' : '#9aa5b1' } })),
      }],
    })
    return `${chart.renderToSVGString()}\n`
  } finally {
    chart.dispose()
  }
}

SELECT p.manufacturer AS manufacturer,
       COUNT(DISTINCT f.tailnum) AS aircraft,
       COUNT(*) AS flights,
       AVG(f.dep_delay) AS avg_dep_delay,
       AVG(w.wind_speed) AS avg_wind_speed
FROM flights AS f
JOIN planes AS p ON f.tailnum = p.tailnum
JOIN weather AS w ON f.origin = w.origin AND f.year = w.year AND f.month = w.month AND f.day = w.day AND f.hour = w.hour
GROUP BY p.manufacturer
HAVING COUNT(DISTINCT f.tailnum) >= 25
